"""The receiving half of an exchange: what its body and its response take of the memory for large bodies."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import BodiesFull, BodyTooLarge
from serving.frontend.bodies import COPIES, COUNTED, STILL, Bodies
from serving.frontend.invocation.request_body import RequestBody
from serving.frontend.invocation.state import State

ROOM = 10 * COUNTED


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Shared:
    """An endpoint as far as it is asked here."""

    def __init__(self, limit: int = 0) -> None:
        self.clock = Clock()
        self.bodies = Bodies(COPIES * ROOM, clock=self.clock)
        self.limit = limit

    def too_large(self, length: int, size: int) -> BodyTooLarge | None:
        return BodyTooLarge("too large") if self.limit and max(length, size) > self.limit else None


class Client:
    """A border as far as it is asked here: a client that has read nothing yet."""

    def __init__(self) -> None:
        self.waiting = 0
        self.is_cut = False

    def unread(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.is_cut = True


class Receiving(RequestBody, eq=False):
    failures: list[Exception] = []  # noqa: RUF012  # each struct has its own
    asked: list[bytes] = []  # noqa: RUF012

    def fail(self, error: Exception) -> None:
        self.failures.append(error)
        self._drop_body()
        self._release()

    def _ask(self) -> None:
        self.asked.append(bytes(self.body))


def receiving(shared: Shared, length: int = 0) -> Receiving:
    parts: Any = {"endpoint": shared, "border": Client()}
    return Receiving(**parts, length=length)


def test_a_replica_is_asked_once_all_of_the_body_has_come() -> None:
    one = receiving(Shared(), 6)
    for part in (b"ab", b"cd", b"ef"):
        one.on_body(part)
        assert (one.asked, one.is_receiving) == ([], True)
    one.on_body_end()
    assert (one.asked, one.is_receiving) == ([b"abcdef"], False)


def test_no_replica_is_asked_while_the_model_is_being_found() -> None:
    one = receiving(Shared())
    one.state = State.FINDING
    one.on_body(b"ab")
    one.on_body_end()
    assert (one.asked, one.is_whole) == ([], True)


@pytest.mark.parametrize("length", [0, 4])
def test_a_body_over_the_limit_fails_at_the_part_that_passes_it(length: int) -> None:
    one = receiving(Shared(limit=4), length)
    one.on_body(b"abcd")
    assert not one.failures
    one.on_body(b"e")
    assert [type(error) for error in one.failures] == [BodyTooLarge]


def test_large_bodies_share_the_room_and_give_it_back() -> None:
    shared = Shared()
    first, second = receiving(shared, ROOM), receiving(shared, ROOM)
    first.on_body(bytes(6 * COUNTED))
    second.on_body(bytes(4 * COUNTED))
    assert shared.bodies.held == ROOM
    second.on_body(bytes(COUNTED))
    assert [type(error) for error in second.failures] == [BodiesFull]
    assert shared.bodies.held == 6 * COUNTED
    first._release()
    assert shared.bodies.held == 0


def test_a_body_that_stands_still_makes_room() -> None:
    shared = Shared()
    slow, fast = receiving(shared, ROOM), receiving(shared, ROOM)
    slow.on_body(bytes(6 * COUNTED))
    shared.clock.now = STILL
    fast.on_body(bytes(6 * COUNTED))
    assert [type(error) for error in slow.failures] == [BodiesFull]
    assert (fast.failures, shared.bodies.held) == ([], 6 * COUNTED)


def test_a_response_takes_the_place_of_the_body_until_its_client_has_read_it() -> None:
    shared = Shared()
    one = receiving(shared, ROOM)
    one.on_body(bytes(ROOM))
    one.on_body_end()
    assert one.holds(bytes(3 * COUNTED))
    assert shared.bodies.held == 3 * COUNTED
    one.border.waiting = 3 * COUNTED  # type: ignore[attr-defined]
    shared.clock.now = STILL
    other = receiving(shared, ROOM)
    other.on_body(bytes(ROOM))
    assert one.border.is_cut  # type: ignore[attr-defined]
    assert (other.failures, shared.bodies.held) == ([], ROOM)


def test_a_response_without_room_fails() -> None:
    shared = Shared()
    other, one = receiving(shared, ROOM), receiving(shared)
    other.on_body(bytes(9 * COUNTED))
    assert not one.holds(bytes(2 * COUNTED))
    assert [type(error) for error in one.failures] == [BodiesFull]
