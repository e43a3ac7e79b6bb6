"""Channel: frames over one Unix socket, on asyncio, for both ends."""

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

AT_ONCE = 256 << 10  # bytes that ``send_now`` writes at most; more would keep its thread from its work
VECTOR = 512  # buffers in one system call; the kernel takes 1024
TURNS = 8  # reads in a row while the buffers are filled
MUCH = 128 << 10  # bytes in one read; the kernel holds about three times as many for a late reader
HELD = 1 << 20  # bytes of the kernel's send buffer, as far as it allows: a large body then takes few system calls
EARLY = 16  # buffers after which a tick's frames are sent early, so that the other side can begin with them


class ChannelOwner(Protocol):
    """The receiver of a channel's frames and of its end."""

    def on_frame(self, channel: Channel, frame: Frame) -> None: ...

    def on_lost(self, channel: Channel) -> None: ...


class Channel(asyncio.BufferedProtocol):
    """Sends and receives whole frames. All frames sent in one tick of the loop go out in one system call.

    ``owner.on_lost`` is called exactly once, after the last frame that had arrived. ``send_now``, ``read_now`` and
    ``unsent`` may be used from other threads, the rest only from the loop's.
    """

    def __init__(self, owner: ChannelOwner, on_open: Callable[[Channel], None] | None = None) -> None:
        self._owner = owner
        self._on_open = on_open
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[Body] = []
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # held by the thread that writes to the socket
        self._fd = -1
        self.brings_much = False
        """Whether the last ``read_now`` read much, or part of a large body: the other side may wait for room."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_sending(self) -> bool:
        """Whether frames that were sent are still in this process."""
        if self._transport is None or self._transport.is_closing():
            return False
        return bool(self._outgoing or self._transport.get_write_buffer_size())

    def send(self, kind: int, id: int, head: bytes = b"", body: Body = b"") -> None:
        """Send one frame. A closed channel drops it: ``on_lost`` is or will be called."""
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
        """Allow ``send_now`` from now on."""
        if self._transport is not None and self._fd < 0:
            # A duplicate, so that its number cannot be reused for another file while threads use it.
            self._fd = os.dup(self._transport.get_extra_info("socket").fileno())

    def let_others_read(self) -> int:
        """Read with ``read_now`` from now on instead of on the loop. Returns the descriptor to watch, -1 for a closed
        channel.
        """
        if self._transport is None or self._transport.is_closing():
            return -1
        self.let_others_send()
        self._transport.pause_reading()
        return self._fd

    def read_now(self) -> list[Frame] | None:
        """Return the frames that are completed by the data that is there; None at the end of the channel. Raises
        WireError.

        May be called from any thread, but from one at a time.
        """
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
                return frames or None  # the next call finds the end again
            frames += self._reader.buffer_updated(n)
            if n >= MUCH or self._reader.is_within_body:
                self.brings_much = True
            if n < len(buffers[0]) or n < sum(map(len, buffers)):
                break
        return frames

    @property
    def unsent(self) -> int:
        """The bytes sent that are still in this process. Can be read from any thread."""
        with self._lock:
            if self._transport is None or self._transport.is_closing():
                return 0
            return sum(map(len, self._outgoing)) + self._transport.get_write_buffer_size()

    def send_now(self, buffers: list[Body]) -> bool:
        """Send frames from any thread, without waking the loop if nothing waits before them. Returns whether all have
        left.
        """
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
                    return True  # the loop is about to see the error, too
                if sent == size:
                    return True
                buffers = rest_of(buffers, sent)
            # Later frames now find that others are before them.
            self._outgoing += buffers
        self._loop.call_soon_threadsafe(self.flush)
        return False

    def close(self) -> None:
        """Close the channel after sending what waits."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the channel at once; what waits is lost."""
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
    """Return what follows the first ``sent`` bytes of ``buffers``."""
    for index, one in enumerate(buffers):
        if sent < len(one):
            return [memoryview(one)[sent:], *buffers[index + 1 :]]
        sent -= len(one)
    return []
