"""Frames survive any splitting of the bytes, and no bytes break the reader."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from serving.errors import WireError
from serving.ipc.wire import AHEAD, LARGE_BODY, MAX_HEAD, Frame, FrameKind, FrameReader, encode

frames = st.builds(
    Frame,
    st.sampled_from([int(kind) for kind in FrameKind]),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=200),
    st.one_of(st.binary(max_size=300), st.integers(LARGE_BODY - 2, LARGE_BODY * 5).map(bytes)),
)


def stream(sent: list[Frame]) -> bytes:
    return b"".join(bytes(part) for frame in sent for part in encode(*astuple(frame)))


def same(a: Frame, b: Frame) -> bool:
    return astuple(a)[:3] == astuple(b)[:3] and bytes(a.body) == bytes(b.body)


@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 200_000), max_size=30))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(sent: list[Frame], cuts: list[int]) -> None:
    data, reader, got = stream(sent), FrameReader(), []
    for cut in cuts:
        got += reader.feed(data[:cut])
        data = data[cut:]
    got += reader.feed(data)
    assert len(got) == len(sent)
    assert all(same(a, b) for a, b in zip(got, sent, strict=True))


PATTERN = b"".join(at.to_bytes(4, "big") for at in range(80_000))  # no two parts of it are alike


def pattern(size: int) -> bytes:
    return PATTERN[:size]


def read_into(buffers: list[memoryview], data: bytes) -> int:
    """As the kernel does: one buffer after the other."""
    done = 0
    for buffer in buffers:
        part = data[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
    return done


SIZES = st.one_of(st.integers(0, 300), st.integers(LARGE_BODY - 2, LARGE_BODY + 2 * AHEAD), st.just(300_000))


@given(st.lists(SIZES, max_size=7), st.lists(st.integers(1, 350_000), min_size=1, max_size=30))
def test_frames_that_are_read_into_several_buffers_at_once(sizes: list[int], cuts: list[int]) -> None:
    sent = [Frame(1, id, pattern(id * 50), pattern(size)) for id, size in enumerate(sizes)]
    data, reader, got = stream(sent), FrameReader(), []
    for cut in itertools.chain(cuts, itertools.repeat(len(data))):
        if not data:
            break
        buffers = reader.get_buffers()
        assert buffers[0]
        n = read_into(buffers, data[:cut])
        data = data[n:]
        got += reader.buffer_updated(n)
    assert len(got) == len(sent)
    assert all(same(a, b) for a, b in zip(got, sent, strict=True))


def test_of_one_large_body_after_another_next_to_nothing_is_copied_again() -> None:
    body, reader, got, reads = pattern(150_000), FrameReader(), [], 0
    data = stream([Frame(1, id, b"h", body) for id in range(20)])
    while data:
        buffers = reader.get_buffers()
        first = sum(map(len, buffers))
        assert got == [] or len(buffers) == 1 or len(buffers[1]) == AHEAD
        n = read_into(buffers, data)
        assert n == min(first, len(data))
        data = data[n:]
        got += reader.buffer_updated(n)
        reads += 1
    assert len(got) == 20
    assert reads <= 22


@given(st.lists(st.binary(max_size=400), max_size=10))
def test_any_bytes_give_frames_or_a_wire_error(chunks: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except WireError:
        pass


@given(st.binary(min_size=1, max_size=60), st.lists(frames, min_size=1, max_size=2), st.integers(0, 400))
def test_a_damaged_stream_never_raises_anything_else(noise: bytes, sent: list[Frame], at: int) -> None:
    data = bytearray(stream(sent))
    at %= len(data)
    data[at : at + len(noise)] = noise
    with contextlib.suppress(WireError):
        FrameReader(max_body=1 << 20).feed(bytes(data))


def test_a_large_body_gets_a_buffer_of_its_own_and_is_not_copied_again() -> None:
    body = bytes(range(256)) * 1024
    start, passed_on = encode(FrameKind.REQUEST, 1, b"h", body)
    assert passed_on is body
    [frame] = FrameReader().feed(bytes(start) + body)
    assert isinstance(frame.body, bytearray)
    assert frame.body == body


@pytest.mark.parametrize(("head", "body"), [(MAX_HEAD + 1, 0), (0, 1 << 40)])
def test_lengths_beyond_the_limits_are_refused_before_anything_is_allocated(head: int, body: int) -> None:
    import struct

    with pytest.raises(WireError):
        FrameReader().feed(struct.pack("<BBHIQQ", 1, 1, 0, head, body, 1))


def test_many_small_frames_pass_through_the_one_scratch_buffer() -> None:
    reader, count = FrameReader(), 0
    piece = stream([Frame(1, n, b"head", b"x" * 1000) for n in range(50)])
    for _ in range(100):
        count += len(reader.feed(piece))
    assert count == 5000
