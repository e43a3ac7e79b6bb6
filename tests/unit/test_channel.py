"""Frames from two threads over one socket: whole, each once, whatever the socket takes at a time."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvloop

from serving.ipc.channel import AT_ONCE, Channel, rest_of
from serving.ipc.wire import Frame, FrameKind, FrameReader, encode

COUNT = 3000


class Owner:
    def __init__(self) -> None:
        self.lost = threading.Event()

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        raise AssertionError("nobody sends this way")

    def on_lost(self, channel: Channel) -> None:
        self.lost.set()


class Rig:
    """A channel on a loop of its own thread; ``theirs`` is the other end."""

    def __init__(self, buffer: int) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        ours.setblocking(False)
        self.owner = Owner()
        self.loop = uvloop.new_event_loop()
        self.channel = self.loop.run_until_complete(self._connect(ours))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def _connect(self, ours: socket.socket) -> Channel:
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(
            lambda: Channel(self.owner, lambda one: one.let_others_send()), sock=ours
        )
        return channel

    def on_loop(self, function: object, *args: object) -> None:
        self.loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]

    def frames(self, count: int) -> list[Frame]:
        reader, found = FrameReader(), []
        self.theirs.settimeout(10)
        while len(found) < count:
            n = self.theirs.recv_into(reader.get_buffer())
            assert n, "the channel was closed"
            found += reader.buffer_updated(n)
        return found

    def stop(self) -> None:
        self.on_loop(self.channel.abort)
        assert self.owner.lost.wait(5)
        self.on_loop(self.loop.stop)
        self.thread.join(5)
        self.loop.close()
        self.theirs.close()


@contextmanager
def rig(buffer: int = 1 << 20) -> Iterator[Rig]:
    one = Rig(buffer)
    try:
        yield one
    finally:
        one.stop()


def body(id: int) -> bytes:
    return bytes([id % 251]) * (id % 3000)


@pytest.mark.parametrize("buffer", [2048, 1 << 20])
def test_frames_of_two_threads_arrive_whole_and_those_of_one_in_order(buffer: int) -> None:
    with rig(buffer) as one:

        def send_now() -> None:
            for id in range(0, COUNT, 2):
                one.channel.send_now(encode(FrameKind.REPLY, id, b"", body(id)))

        def send_soon() -> None:
            for id in range(1, COUNT, 2):
                one.on_loop(one.channel.send, FrameKind.REPLY, id, b"", body(id))

        threads = [threading.Thread(target=send_now), threading.Thread(target=send_soon)]
        for thread in threads:
            thread.start()
        found = one.frames(COUNT)
        for thread in threads:
            thread.join()
    assert all(bytes(frame.body) == body(frame.id) for frame in found)
    for odd in (0, 1):
        assert [frame.id for frame in found if frame.id % 2 == odd] == list(range(odd, COUNT, 2))


def test_one_thread_alone_needs_no_loop() -> None:
    with rig() as one:
        stopped, go = threading.Event(), threading.Event()

        def hold() -> None:
            stopped.set()
            go.wait(10)

        one.on_loop(hold)
        assert stopped.wait(5)
        one.channel.send_now(encode(FrameKind.REPLY, 7, b"", b"now"))
        [frame] = one.frames(1)
        go.set()
    assert (frame.id, bytes(frame.body)) == (7, b"now")


@pytest.mark.parametrize("size", [AT_ONCE - 100, AT_ONCE + 1, 3 << 20])
def test_large_frames_arrive_too(size: int) -> None:
    with rig(4096) as one:
        large = bytes(range(256)) * (size // 256)
        sender = threading.Thread(target=one.channel.send_now, args=(encode(FrameKind.REPLY, 1, b"", large),))
        sender.start()
        [frame] = one.frames(1)
        sender.join()
    assert bytes(frame.body) == large


def test_after_the_other_end_has_gone_nothing_is_sent_and_nothing_raised() -> None:
    with rig() as one:
        one.theirs.close()
        assert one.owner.lost.wait(5)
        one.channel.send_now(encode(FrameKind.REPLY, 1, b"", b"late"))


def test_what_is_left_of_buffers() -> None:
    buffers = [b"abc", b"", b"defg"]
    for sent in range(8):
        assert b"".join(bytes(one) for one in rest_of(list(buffers), sent)) == b"abcdefg"[sent:]
