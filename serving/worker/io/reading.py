"""Reading: which thread reads the sockets of HTTP workers.

The engine's thread reads where it waits for requests and between two batches, so that a request wakes one thread
instead of two that contend for the GIL. While the engine is busy elsewhere the loop's thread reads: it checks now and
then whether the engine is away, and uses epoll as long as it is. While large bodies arrive it reads all the time: the
kernel buffers so little of them that the next batch would be read only after this one. But it stays quiet while the
engine launches the kernels of a batch on a GPU: the engine releases the GIL for each of hundreds, and would get it back
each time only after another body is read.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from typing import Protocol

from serving.errors import WireError
from serving.ipc.channel import Channel
from serving.ipc.wire import Frame
from serving.system import log
from serving.worker.io.loopduty import CHECKS, READS, LoopDuty

TICK = 0.005  # seconds between checks by the loop's thread, and of the engine's absence until that reads
ALONE = 0.05  # seconds, at most, for which that thread stays quiet
FINE = 0.02  # seconds; shorter waits need microseconds, while epoll rounds up to milliseconds
QUIET = 0.1  # seconds of the engine's waiting after which the loop's thread stops checking


class EngineTaker(Protocol):
    """Takes frames on the engine's thread."""

    def take(self, channel: Channel, frame: Frame) -> bool:
        """Take a frame. Returns False where it, and all behind it, is for the loop's thread."""
        ...

    def took(self) -> None:
        """Finish a round of ``take``."""
        ...


class LoopTaker(Protocol):
    """Takes frames on the loop's thread."""

    def on_frame(self, channel: Channel, frame: Frame) -> None: ...


class InTransit:
    """One channel's frames that were handed to the loop's thread: counts of those ``sent`` and of those ``dealt_with``.

    The reading thread counts the former, the loop's thread the latter.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.dealt_with = 0

    @property
    def is_clear(self) -> bool:
        return self.sent == self.dealt_with


class SocketReader:
    """The sockets, read by one thread at a time; the frames of a channel stay in order.

    ``add``, ``remove`` and ``watch`` are for the loop's thread; the rest is the engine's Bell.
    """

    def __init__(self, engine_taker: EngineTaker, loop_taker: LoopTaker) -> None:
        self._engine_taker = engine_taker
        self._loop_taker = loop_taker
        self._loop: asyncio.AbstractEventLoop
        self._lock = threading.Lock()
        self._channels: dict[int, Channel] = {}
        self._in_transit: dict[Channel, InTransit] = {}
        self._sockets = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._both = select.epoll()  # one system call to wait and to list the ready ones
        self._both.register(self._bell, select.EPOLLIN)
        self._rung = False
        # Changed on the loop's thread.
        self.duty = LoopDuty.RESTING
        self._always = False
        self._next_check: asyncio.TimerHandle | None = None
        # Changed on the engine's thread, by which the loop's judges.
        self._is_away = False
        self._waits_since: float | None = None  # None while it is at work
        self._alone_since: float | None = None  # None while it may be interrupted
        self._has_looked = False
        # Changed by whoever reads.
        self._engine_read_at = 0.0
        self._much_at = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, channel: Channel) -> None:
        with self._lock:
            descriptor = channel.let_others_read()
            if descriptor < 0:
                return
            self._channels[descriptor] = channel
            self._in_transit[channel] = InTransit()
            self._sockets.register(descriptor, select.EPOLLIN)
            self._both.register(descriptor, select.EPOLLIN)

    def remove(self, channel: Channel) -> None:
        """Forget a channel; call it before its descriptor is closed."""
        with self._lock:
            if self._in_transit.pop(channel, None) is not None:
                self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        for descriptor, one in list(self._channels.items()):
            if one is channel:
                del self._channels[descriptor]
                self._sockets.unregister(descriptor)
                self._both.unregister(descriptor)

    # The engine's side.

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def wait(self, seconds: float | None) -> None:
        self._waits_since = time.monotonic()
        ready = self._wait(seconds)
        self._waits_since = None
        if self._bell in ready:
            ready.remove(self._bell)
            os.eventfd_read(self._bell)
            self._rung = False  # after the read, or it could swallow a ring in between and block all later ones
        if ready:
            self._read_all(ready)
            self._has_looked = True
        if self.duty is LoopDuty.RESTING:
            self._loop.call_soon_threadsafe(self._end_rest)

    def _wait(self, seconds: float | None) -> list[int]:
        """Wait, and return the descriptors that are ready."""
        if self._is_away:
            return select.select([self._bell], (), (), seconds)[0]
        if seconds is not None and seconds < FINE:
            select.select([self._both], (), (), seconds)
            seconds = 0
        return [descriptor for descriptor, _ in self._both.poll(seconds)]

    def look(self) -> None:
        if not self._has_looked and not self._is_away:
            self._read_all([descriptor for descriptor, _ in self._sockets.poll(0)])
        self._has_looked = False

    def _read_all(self, descriptors: list[int]) -> None:
        with self._lock:
            self._engine_read_at = time.monotonic()
            for descriptor in descriptors:
                channel = self._channels.get(descriptor)
                if channel is None:  # the loop's thread has removed it
                    continue
                try:
                    for frame in self._read(channel):
                        if not self._in_transit[channel].is_clear or not self._engine_taker.take(channel, frame):
                            self._hand_over(channel, frame)
                except Exception as exc:
                    self._give_up(channel, exc)
        self._engine_taker.took()

    def away(self, is_away: bool) -> None:
        if is_away is not self._is_away:
            self._is_away = is_away
            self._loop.call_soon_threadsafe(self._tick)

    def alone(self, is_alone: bool) -> None:
        self._alone_since = time.monotonic() if is_alone else None
        if not is_alone and self.duty is LoopDuty.KEEPING_STILL:
            self._loop.call_soon_threadsafe(self._tick)

    def _hand_over(self, channel: Channel, frame: Frame) -> None:
        self._in_transit[channel].sent += 1
        self._loop.call_soon_threadsafe(self._take_over, channel, frame)

    # The loop's side.

    def _take_over(self, channel: Channel, frame: Frame) -> None:
        in_transit = self._in_transit.get(channel)
        if in_transit is None:  # the channel was lost meanwhile
            return
        try:
            self._loop_taker.on_frame(channel, frame)
        except Exception as exc:
            with self._lock:
                self._give_up(channel, exc)
        in_transit.dealt_with += 1  # after the frame, or the engine's thread could take the next one first

    def watch(self, always: bool) -> None:
        """Set whether the loop's thread always reads, whatever the engine does."""
        self._always = always
        self._tick()

    def _end_rest(self) -> None:
        if self.duty is LoopDuty.RESTING:
            self._tick()

    def _tick(self) -> None:
        """Choose what to do about the sockets, and do it until the next check."""
        read = self.duty in READS
        if self._next_check is not None:
            self._next_check.cancel()
        # Before looking at the engine: where its wait ends just now it must find that nobody checks.
        self.duty = LoopDuty.RESTING
        self.duty = duty = self._judge(time.monotonic())
        if duty in READS and not read:
            self._loop.add_reader(self._sockets.fileno(), self._on_readable)
        elif duty not in READS and read:
            self._loop.remove_reader(self._sockets.fileno())
        self._next_check = self._loop.call_later(TICK, self._tick) if duty in CHECKS else None

    def _judge(self, now: float) -> LoopDuty:
        if self._is_away or self._always:
            return LoopDuty.READING
        since, much = self._waits_since, now - self._much_at < QUIET
        if much or (since is None and now - self._engine_read_at > TICK):
            return LoopDuty.KEEPING_STILL if self._is_launching(now) else LoopDuty.STANDING_IN
        return LoopDuty.CHECKING if since is None or now - since < QUIET else LoopDuty.RESTING

    def _is_launching(self, now: float) -> bool:
        since = self._alone_since
        return since is not None and now - since < ALONE

    def _keeps_still(self) -> bool:
        return self.duty is LoopDuty.STANDING_IN and self._is_launching(time.monotonic())

    def _on_readable(self) -> None:
        if self._keeps_still():
            self._tick()
            return
        if not self._lock.acquire(blocking=False):
            return  # the engine is back
        try:
            for descriptor, _ in self._sockets.poll(0):
                if self._keeps_still():
                    return
                channel = self._channels[descriptor]
                try:
                    for frame in self._read(channel):
                        if self._in_transit[channel].is_clear:
                            self._loop_taker.on_frame(channel, frame)
                        else:
                            self._hand_over(channel, frame)
                except Exception as exc:
                    self._give_up(channel, exc)
        finally:
            self._lock.release()

    # Either's, with the lock.

    def _read(self, channel: Channel) -> list[Frame]:
        frames = channel.read_now()
        if channel.brings_much:
            self._much_at = time.monotonic()
        if frames is not None:
            return frames
        self._forget(channel)
        self._loop.call_soon_threadsafe(channel.close)
        return []

    def _give_up(self, channel: Channel, exc: Exception) -> None:
        """Abort a channel whose frames cannot be read or handled; the others go on."""
        if isinstance(exc, WireError):
            log.error("a channel broke the frame format", error=str(exc))
        else:
            log.error("a frame cannot be taken; its channel ends", exc=exc)
        self._forget(channel)
        self._loop.call_soon_threadsafe(channel.abort)
