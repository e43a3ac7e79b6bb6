"""Channel: frames over one Unix socket, on asyncio, for both of its ends."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from typing import Protocol, cast

from serving.errors import WireError
from serving.ipc.wire import Frame, FrameReader, encode
from serving.request import Body
from serving.system import log

AT_ONCE = 256 << 10  # bytes that another thread may write by itself; more would keep it from its work
VECTOR = 512  # buffers in one system call; the kernel takes 1024
TURNS = 8  # reads in a row while there is more than was asked for
MUCH = 128 << 10  # bytes in one read; the kernel holds about three times as many for a reader that is late
HELD = 1 << 20  # bytes on their way in the kernel, as far as it allows: a large body is then few hand-overs, not many
EARLY = 16  # buffers that do not wait for the rest of the tick, so that the other side begins while this one goes on


class ChannelOwner(Protocol):
    """What is told of a channel's frames and of its end."""

    def on_frame(self, channel: Channel, frame: Frame) -> None: ...

    def on_lost(self, channel: Channel) -> None: ...


class Channel(asyncio.BufferedProtocol):
    """Whole frames in, whole frames out. What one tick of the loop sends goes out in one system call.

    ``owner.on_lost`` is called exactly once, after the last frame that had arrived. ``send_now`` and ``read_now`` may
    be called from other threads, the rest from the loop's.
    """

    def __init__(self, owner: ChannelOwner, on_open: Callable[[Channel], None] | None = None) -> None:
        self._owner = owner
        self._on_open = on_open
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[Body] = []
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # who holds it alone writes to the socket
        self._fd = -1
        self.brings_much = False
        """Whether what ``read_now`` read last was much, or a part of it, so that the other side may wait for room."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_sending(self) -> bool:
        """Whether something that was sent is still in this process."""
        if self._transport is None or self._transport.is_closing():
            return False
        return bool(self._outgoing or self._transport.get_write_buffer_size())

    def send(self, kind: int, id: int, head: bytes = b"", body: Body = b"") -> None:
        """Send one frame. On a closed channel it is dropped: ``on_lost`` has told or will tell."""
        self.send_raw(encode(kind, id, head, body))

    def send_raw(self, buffers: list[Body]) -> None:
        if not self._outgoing:
            self._loop.call_soon(self.flush)
        self._outgoing += buffers
        if len(self._outgoing) >= EARLY:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            outgoing, self._outgoing = self._outgoing, []
            if outgoing and self._transport is not None and not self._transport.is_closing():
                self._transport.writelines(outgoing)

    def let_others_send(self) -> None:
        """From now on ``send_now`` may be used."""
        if self._transport is not None and self._fd < 0:
            # Of our own, so that nobody else's file can come to have this number.
            self._fd = os.dup(self._transport.get_extra_info("socket").fileno())

    def let_others_read(self) -> int:
        """From now on ``read_now`` is to be used, and the loop reads no more. Gives the descriptor to watch, -1 of a
        channel that is closed."""
        if self._transport is None or self._transport.is_closing():
            return -1
        self.let_others_send()
        self._transport.pause_reading()
        return self._fd

    def read_now(self) -> list[Frame] | None:
        """From any thread, but one at a time: the frames that what is there completes; None at the end of the channel.
        Raises WireError."""
        frames: list[Frame] = []
        self.brings_much = False
        for _ in range(TURNS):
            buffers = self._reader.get_buffers()
            try:
                n = os.readv(self._fd, buffers)
            except BlockingIOError:
                break
            except OSError:
                n = 0
            if not n:
                return frames or None  # the end is there the next time, too
            frames += self._reader.buffer_updated(n)
            if n >= MUCH or self._reader.is_within_body:
                self.brings_much = True
            if n < len(buffers[0]) or n < sum(map(len, buffers)):
                break
        return frames

    @property
    def unsent(self) -> int:
        """From any thread: bytes of what was sent that are still in this process."""
        with self._lock:
            if self._transport is None or self._transport.is_closing():
                return 0
            return sum(map(len, self._outgoing)) + self._transport.get_write_buffer_size()

    def send_now(self, buffers: list[Body]) -> bool:
        """From any thread: send frames without waking the loop, where nothing is before them. Whether all have left."""
        size = sum(len(one) for one in buffers)
        with self._lock:
            transport = self._transport
            idle = transport is not None and not self._outgoing and not transport.get_write_buffer_size()
            if idle and self._fd >= 0 and size <= AT_ONCE and len(buffers) <= VECTOR:
                try:
                    sent = os.writev(self._fd, buffers)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    return True  # the loop is about to hear of it
                if sent == size:
                    return True
                buffers = rest_of(buffers, sent)
            # Whoever sends from now on finds that something is before it.
            self._outgoing += buffers
        self._loop.call_soon_threadsafe(self.flush)
        return False

    def close(self) -> None:
        """Send what is waiting, then close."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what is waiting is lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HELD)
        if self._on_open is not None:
            self._on_open(self)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            frames = self._reader.buffer_updated(nbytes)
        except WireError as exc:
            log.error("a channel broke the frame format", error=str(exc))
            self.abort()
            return
        for frame in frames:
            self._owner.on_frame(self, frame)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        try:
            self._owner.on_lost(self)
        finally:
            with self._lock:
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1


def rest_of(buffers: list[Body], sent: int) -> list[Body]:
    """What follows the first ``sent`` bytes."""
    for index, one in enumerate(buffers):
        if sent < len(one):
            return [memoryview(one)[sent:], *buffers[index + 1 :]]
        sent -= len(one)
    return []
