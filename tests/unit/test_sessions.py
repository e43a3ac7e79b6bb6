"""Sessions of one replica: opened, found, ended in time, their calls one after the other; and what a state weighs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import SessionClosed, SessionExpired, SessionLimit, SessionNotFound
from serving.request import Request
from serving.session import Session, SessionAddress, address_of, make_id, size_of
from serving.worker.batching.batcher import Item
from serving.worker.io.sessions import CLOSE, NEW_SESSION, Sessions, request_type

ADDRESS = SessionAddress("0a1b2c3d", 7, 42)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def sessions(ttl: float = 60.0, limit: int = 10) -> tuple[Sessions, Clock]:
    clock = Clock()
    return Sessions(lambda: make_id(ADDRESS), ttl, limit, clock), clock


def call(session: Session, id: int) -> Item:
    return Item(id, Request(), session=session)


def test_an_id_tells_the_replica_and_is_of_the_platforms_alphabet() -> None:
    ids = {make_id(ADDRESS) for _ in range(100)}
    assert len(ids) == 100
    for id in ids:
        assert re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9])*", id)
        assert address_of(id) == ADDRESS


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{30,34}-[0-9a-f]{8}-\d+-\d+", fullmatch=True))
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert address_of(text) is None or isinstance(address_of(text), SessionAddress)


def test_a_session_is_found_until_its_time_is_over() -> None:
    held, clock = sessions(ttl=60)
    session = held.open(1)
    clock.now += 59.9
    assert held.find(session.id) is session
    assert held.expired() == []
    clock.now += 0.1
    with pytest.raises(SessionExpired):
        held.find(session.id)
    assert held.expired() == [session]
    held.end(session, SessionExpired)
    with pytest.raises(SessionExpired):
        held.find(session.id)
    assert len(held) == 0


def test_a_session_at_work_is_not_swept() -> None:
    held, clock = sessions(ttl=60)
    session = held.open(1)
    working = call(session, 1)
    held.enter(working)
    clock.now += 61
    assert held.expired() == []
    held.leave(working)
    assert held.expired() == [session]


def test_what_is_unknown_and_what_is_closed_are_told_apart() -> None:
    held, _ = sessions()
    session = held.open(1)
    session.close()
    with pytest.raises(SessionClosed):
        held.find(session.id)
    held.end(session, SessionClosed)
    with pytest.raises(SessionClosed):
        held.find(session.id)
    with pytest.raises(SessionNotFound):
        held.find("other")


def test_the_limit_counts_what_is_open() -> None:
    held, _ = sessions(limit=1)
    session = held.open(1)
    with pytest.raises(SessionLimit):
        held.open(1)
    held.end(session, SessionClosed)
    held.open(1)


def test_calls_of_a_session_come_one_by_one_and_skip_those_that_nobody_waits_for() -> None:
    held, _ = sessions()
    session = held.open(1)
    first, second, third = (call(session, id) for id in range(3))
    assert [held.enter(one) for one in (first, second, third)] == [True, False, False]
    second.cancelled = True
    assert held.leave(first) is third
    assert held.leave(third) is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"requestType": "NEW_SESSION"}', NEW_SESSION),
        (b'{"requestType":"CLOSE","more":1}', CLOSE),
        (b'{"requestType": "OTHER"}', ""),
        (b'{"requestType": 1}', ""),
        (b'["requestType"]', ""),
        (b"requestType", ""),
        (b"\xff requestType", ""),
        (b"", ""),
        (b'{"requestType": "CLOSE", "text": "' + b"x" * 5000 + b'"}', ""),
    ],
)
def test_the_body_convention(body: bytes, kind: str) -> None:
    assert request_type(Request(body)) == kind


def test_the_announcement_has_whole_seconds_and_a_literal_z() -> None:
    held, _ = sessions()
    session = held.open(1)
    assert re.fullmatch(r"[0-9a-f-]+; Expires=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", session.announcement)


@pytest.mark.parametrize(
    ("value", "size"),
    [(b"x" * 10_000, 10_000), ([b"x" * 10_000] * 2, 10_000), (np.zeros(1250), 10_000), (torch.zeros(2500), 10_000)],
)
def test_a_states_size_is_about_what_it_holds_each_thing_once(value: object, size: int) -> None:
    assert size <= size_of({"a": value, "b": value}, 1 << 30) < size + 2_000


def test_counting_ends_beyond_the_limit_and_with_loops() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert size_of(loop, 1 << 30) < 1000
    assert size_of([b"x" * 1000 for _ in range(1000)], 5_000) < 20_000
