"""The event-stream encoder against the decoder of the client that will read it."""

from __future__ import annotations

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer, EventStreamMessage
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.local.eventstream import PART_LIMIT, event, exception, message, parts

names = st.text(min_size=1, max_size=60).filter(lambda name: len(name.encode()) <= 255)
headers = st.dictionaries(names, st.text(max_size=200), max_size=8)


def decoded(data: bytes, step: int = 0) -> list[EventStreamMessage]:
    """What the client reads when the bytes arrive in steps of so many, or all at once."""
    buffer = EventStreamBuffer()
    found: list[EventStreamMessage] = []
    for start in range(0, len(data), step or len(data) or 1):
        buffer.add_data(data[start : start + (step or len(data))])
        found += list(buffer)
    return found


@given(headers=headers, payload=st.binary(max_size=5000), step=st.integers(1, 300))
def test_a_message_is_read_as_it_was_written(headers: dict[str, str], payload: bytes, step: int) -> None:
    (found,) = decoded(message(headers, payload), step)
    assert (found.headers, found.payload) == (headers, payload)


@given(payloads=st.lists(st.binary(max_size=300), max_size=6), step=st.integers(1, 100))
def test_messages_follow_each_other_without_a_gap(payloads: list[bytes], step: int) -> None:
    data = b"".join(event("PayloadPart", payload) for payload in payloads)
    assert [found.payload for found in decoded(data, step)] == payloads


@given(payload=st.binary(min_size=1, max_size=200), place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_wrong_bit_is_noticed(payload: bytes, place: int, bit: int) -> None:
    data = bytearray(event("PayloadPart", payload))
    place %= len(data)
    data[place] ^= 1 << bit
    with pytest.raises(ChecksumMismatch):
        decoded(bytes(data))


@given(body=st.binary(max_size=400), limit=st.integers(1, 90))
def test_a_body_is_cut_into_parts_of_at_most_the_limit(body: bytes, limit: int) -> None:
    found = [found.payload for found in decoded(b"".join(parts(memoryview(body), limit)))]
    assert b"".join(found) == body
    assert all(0 < len(part) <= limit for part in found)
    assert len(found) == -(-len(body) // limit)


def test_a_part_is_at_most_a_mebibyte() -> None:
    found = decoded(b"".join(parts(bytes(PART_LIMIT + 1))))
    assert [len(part.payload) for part in found] == [PART_LIMIT, 1]


def test_an_exception_is_an_error_to_the_client() -> None:
    (found,) = decoded(exception("ModelStreamError", b"{}"))
    assert found.headers == {
        ":message-type": "exception",
        ":exception-type": "ModelStreamError",
        ":content-type": "application/json",
    }
    assert found.to_response_dict()["status_code"] == 400
