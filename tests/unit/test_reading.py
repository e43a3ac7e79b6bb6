"""Two threads that read the same channels in turn: every frame goes to one of them, in order."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvloop

from serving.ipc.channel import Channel
from serving.ipc.wire import Frame, FrameKind, encode
from serving.worker.io import reading
from serving.worker.io.loopduty import READS
from serving.worker.io.reading import QUIET, TICK, SocketReader

LIMIT = 10.0  # seconds


class Taker:
    """Takes REQUEST frames on the engine's thread; notes who was given what."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.brought: list[int] = []
        self.lost = threading.Event()
        self.reading: SocketReader

    def take(self, channel: Channel, frame: Frame) -> bool:
        if frame.kind != FrameKind.REQUEST:
            return False
        self.taken.append(frame.id)
        return True

    def took(self) -> None:
        pass

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        self.brought.append(frame.id)

    def on_lost(self, channel: Channel) -> None:
        self.reading.remove(channel)
        self.lost.set()


class Rig:
    """This thread is the engine's."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.taker = Taker()
        self.reading = self.taker.reading = SocketReader(self.taker, self.taker)
        self.loop = uvloop.new_event_loop()
        self.reading.start(self.loop)
        self.channel = self.loop.run_until_complete(self._connect(ours))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.on_loop(self.reading.add, self.channel)

    async def _connect(self, ours: socket.socket) -> Channel:
        _, channel = await asyncio.get_running_loop().create_connection(lambda: Channel(self.taker), sock=ours)
        return channel

    def on_loop(self, function: Callable[..., object], *args: object) -> None:
        """And wait until it has run."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(*args), done.set()))
        assert done.wait(LIMIT)

    def send(self, kind: FrameKind, *ids: int, body: bytes = b"") -> None:
        for id in ids:
            self.theirs.sendall(b"".join(encode(kind, id, b"", body)))

    def wait_for(self, found: Callable[[], bool], seconds: float = 0.05) -> None:
        """As the engine does."""
        until = time.monotonic() + LIMIT
        while not found():
            assert time.monotonic() < until
            self.reading.wait(seconds)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.channel.abort)
        assert self.taker.lost.wait(LIMIT)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT)
        self.loop.close()
        self.theirs.close()


@contextmanager
def rig() -> Iterator[Rig]:
    one = Rig()
    try:
        yield one
    finally:
        one.stop()


def until(found: Callable[[], bool]) -> None:
    """Without the engine's thread doing anything."""
    end = time.monotonic() + LIMIT
    while not found():
        assert time.monotonic() < end
        time.sleep(0.001)


def ticks_of(one: Rig) -> list[float]:
    """When the loop's thread looked, from now on."""
    ticks, tick = list[float](), one.reading._tick

    def noted() -> None:
        ticks.append(time.monotonic())
        tick()

    one.reading._tick = noted  # type: ignore[method-assign]
    return ticks


def test_who_waits_reads() -> None:
    with rig() as one:
        one.send(FrameKind.REQUEST, 1, 2, 3)
        one.wait_for(lambda: len(one.taker.taken) == 3)
        assert (one.taker.taken, one.taker.brought) == ([1, 2, 3], [])


def test_what_has_come_during_a_batch_is_read_after_it() -> None:
    with rig() as one:
        one.send(FrameKind.REQUEST, 1)
        until(lambda: (one.reading.look(), bool(one.taker.taken))[1])
        assert one.taker.taken == [1]


def test_a_ring_ends_a_wait_also_one_that_comes_later() -> None:
    with rig() as one:
        began = time.monotonic()
        threading.Timer(0.05, one.reading.ring).start()
        one.reading.wait(LIMIT)
        one.reading.ring()
        one.reading.ring()
        one.reading.wait(LIMIT)
        assert time.monotonic() - began < LIMIT / 2
        one.reading.wait(0.05)
        assert time.monotonic() - began >= 0.1 - 0.01, "two rings before one wait end one wait"


def test_a_ring_that_comes_as_one_is_heard_does_not_silence_the_bell(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig() as one:
        read = os.eventfd_read
        monkeypatch.setattr(os, "eventfd_read", lambda bell: (one.reading.ring(), read(bell))[1])
        one.reading.ring()
        one.reading.wait(LIMIT)
        monkeypatch.undo()
        began = time.monotonic()
        one.reading.ring()
        one.reading.wait(LIMIT)
        assert time.monotonic() - began < LIMIT / 2


def test_frames_for_the_loop_and_all_behind_them_reach_it_in_order() -> None:
    with rig() as one:
        one.send(FrameKind.REQUEST, 1)
        one.send(FrameKind.CHUNK, 2)
        one.send(FrameKind.REQUEST, 3)
        one.send(FrameKind.CANCEL, 4)
        one.wait_for(lambda: len(one.taker.taken) + len(one.taker.brought) == 4)
        assert one.taker.taken[:1] == [1]
        assert one.taker.brought[0] == 2
        assert one.taker.brought[-1] == 4
        assert sorted(one.taker.taken + one.taker.brought) == [1, 2, 3, 4]


def test_order_is_kept_whoever_reads() -> None:
    with rig() as one:
        count = 600

        def send() -> None:
            for id in range(count):
                one.send(FrameKind.CHUNK if id % 7 else FrameKind.OPEN, id)

        sender = threading.Thread(target=send)
        sender.start()
        turn = 0
        while len(one.taker.brought) < count:
            one.reading.away(turn % 3 == 0)
            one.reading.wait(0.001)
            one.reading.look()
            turn += 1
        sender.join(LIMIT)
        assert one.taker.brought == list(range(count))


def test_nothing_overtakes_a_frame_that_the_loop_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig() as one:
        taken, order, inside, go_on = one.taker.taken, list[int](), threading.Event(), threading.Event()

        def on_frame(channel: Channel, frame: Frame) -> None:
            inside.set()
            assert go_on.wait(LIMIT)
            order.extend([*taken, frame.id])

        monkeypatch.setattr(one.taker, "on_frame", on_frame)
        one.send(FrameKind.CHUNK, 1)
        one.wait_for(inside.is_set)
        one.send(FrameKind.REQUEST, 2)
        one.reading.wait(LIMIT)
        go_on.set()
        until(lambda: len(order) == 2)
        assert order == [1, 2]


@pytest.mark.parametrize("reader", ["engine", "loop"])
@pytest.mark.parametrize("taker", ["take", "on_frame"])
def test_a_frame_that_cannot_be_taken_ends_its_channel_alone(
    monkeypatch: pytest.MonkeyPatch, reader: str, taker: str
) -> None:
    def fail(channel: Channel, frame: Frame) -> bool:
        raise ValueError(frame.id)

    with rig() as one:
        monkeypatch.setattr(one.taker, "on_frame", fail)
        if taker == "take":
            monkeypatch.setattr(one.taker, "take", fail)
        one.reading.away(reader == "loop")
        one.send(FrameKind.CHUNK, 1)
        one.wait_for(one.taker.lost.is_set)


@pytest.mark.parametrize("rung", [False, True])
def test_the_loop_reads_while_the_engine_is_at_work_that_it_did_not_read(rung: bool) -> None:
    with rig() as one:
        one.send(FrameKind.REQUEST, 1)
        one.wait_for(lambda: bool(one.taker.taken))
        if rung:
            threading.Timer(3 * QUIET, one.reading.ring).start()
        one.reading.wait(3 * QUIET if not rung else LIMIT)
        one.send(FrameKind.REQUEST, 2)
        until(lambda: one.taker.brought == [2])


def test_while_the_loop_reads_whatever_happens_it_does_not_look_after_the_engine() -> None:
    with rig() as one:
        ticks = ticks_of(one)
        one.send(FrameKind.REQUEST, 1)
        one.wait_for(lambda: bool(one.taker.taken))
        one.on_loop(one.reading.watch, True)
        time.sleep(4 * TICK)
        ticks.clear()
        time.sleep(10 * TICK)
        assert ticks == []


def test_the_loop_reads_while_the_engine_is_at_work() -> None:
    with rig() as one:
        one.send(FrameKind.REQUEST, 1)
        one.wait_for(lambda: bool(one.taker.taken))
        began = time.monotonic()
        one.send(FrameKind.REQUEST, 2)
        until(lambda: one.taker.brought == [2])
        assert time.monotonic() - began >= TICK / 2


def test_while_large_bodies_come_the_loop_reads_beside_an_engine_that_is_never_away_for_long() -> None:
    with rig() as one:
        sender = threading.Thread(
            target=lambda: [one.send(FrameKind.REQUEST, id, body=bytes(300_000)) for id in range(60)]
        )
        sender.start()
        one.wait_for(lambda: bool(one.taker.taken))
        while len(one.taker.taken) + len(one.taker.brought) < 60:
            time.sleep(TICK / 3)
            one.reading.look()
        sender.join(LIMIT)
        assert one.taker.brought
        one.reading.wait(3 * QUIET)
        assert one.reading.duty not in READS


@pytest.mark.parametrize("size", [0, 300_000])
def test_while_the_engine_launches_kernels_the_loop_keeps_still_and_then_reads_on(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(reading, "ALONE", LIMIT)
    with rig() as one:
        one.send(FrameKind.REQUEST, 1, body=bytes(100))
        one.wait_for(lambda: bool(one.taker.taken))
        ticks = ticks_of(one)
        one.reading.alone(True)
        sender = threading.Thread(target=lambda: one.send(FrameKind.REQUEST, 2, body=bytes(size)))
        sender.start()
        until(lambda: len(ticks) > 5)
        assert one.taker.brought == []
        one.reading.alone(False)
        until(lambda: one.taker.brought == [2])
        sender.join(LIMIT)


def test_it_does_not_keep_still_for_an_engine_that_never_ends() -> None:
    with rig() as one:
        one.send(FrameKind.REQUEST, 1)
        one.wait_for(lambda: bool(one.taker.taken))
        one.reading.alone(True)
        one.send(FrameKind.REQUEST, 2)
        until(lambda: one.taker.brought == [2])


def test_one_that_reads_for_an_engine_that_is_away_keeps_reading() -> None:
    with rig() as one:
        one.reading.away(True)
        one.reading.alone(True)
        one.send(FrameKind.REQUEST, 1)
        until(lambda: one.taker.brought == [1])


def test_the_loop_rests_when_the_engine_waits_and_begins_again() -> None:
    with rig() as one:
        ticks = ticks_of(one)
        for id in range(3):
            one.send(FrameKind.REQUEST, 2 * id)
            one.wait_for(lambda id=id: 2 * id in one.taker.taken + one.taker.brought)  # type: ignore[misc]
            one.send(FrameKind.REQUEST, 2 * id + 1)
            until(lambda id=id: 2 * id + 1 in one.taker.brought)  # type: ignore[misc]
            ticks.clear()
            one.reading.wait(6 * QUIET)
            assert 0 < len(ticks) < 3 * QUIET / TICK


def test_while_the_engine_is_away_the_loop_is_told_at_once_and_rings_reach_the_engine() -> None:
    with rig() as one:
        one.reading.away(True)
        one.send(FrameKind.REQUEST, 1, 2)
        until(lambda: one.taker.brought == [1, 2])
        one.reading.look()
        one.reading.ring()
        one.reading.wait(LIMIT)
        one.reading.away(False)
        one.send(FrameKind.REQUEST, 3)
        one.wait_for(lambda: len(one.taker.brought) + len(one.taker.taken) == 3)


def test_a_worker_that_takes_no_more_is_read_by_the_loop() -> None:
    with rig() as one:
        one.on_loop(one.reading.watch, True)
        one.send(FrameKind.REQUEST, 1)
        until(lambda: one.taker.brought == [1])
        one.on_loop(one.reading.watch, False)
        one.send(FrameKind.REQUEST, 2)
        one.wait_for(lambda: one.taker.taken == [2] or one.taker.brought == [1, 2])


@pytest.mark.parametrize("end", ["closed", "garbage"])
@pytest.mark.parametrize("reader", ["engine", "loop"])
def test_the_end_of_a_channel_is_told_after_its_last_frame(end: str, reader: str) -> None:
    with rig() as one:
        one.reading.away(reader == "loop")
        one.send(FrameKind.REQUEST, 1)
        one.wait_for(lambda: one.taker.taken + one.taker.brought == [1])
        if end == "closed":
            one.theirs.close()
        else:
            one.theirs.sendall(b"\xff" * 64)
        one.wait_for(one.taker.lost.is_set)
