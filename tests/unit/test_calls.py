"""Each call of user code has a time of its own, from its own beginning: none is ended for its queue or its neighbours,
and none that hangs is excused by those that come later. The clock is injected, the row is one of a scoreboard."""

from __future__ import annotations

import asyncio
import datetime
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import torch

from serving.deadline import Deadline
from serving.handler import MAX_THREADS, BatchPolicy, Handler
from serving.ipc.scoreboard import Row, Scoreboard
from serving.request import Request
from serving.session import Session
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.device.fake import FakeDevice, FakeLanding
from serving.worker.device.host import Host
from serving.worker.engine.calls import DROP_TIME
from serving.worker.engine.engine import Engine
from serving.worker.engine.streams.generators import CLOSE_TIME
from serving.worker.io.sessions import closed
from serving.worker.rules import Rules

TIMEOUT = 2.0  # seconds; the model's
IDLE = 5.0  # of streams


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Heavy:
    """A sample whose destructor takes as long as every other call."""

    def __init__(self, handler: Watched, body: str) -> None:
        self.handler, self.body = handler, body

    def __del__(self) -> None:
        if self.handler.destructors:
            self.handler.call("destructor")


class Watched(Handler):
    """Each of its calls takes ``takes()`` seconds; the supervisor looks when it has begun and just before it ends."""

    def __init__(self, clock: FakeClock, row: Row, takes: Callable[[], float] = lambda: 1.4, max_size: int = 4) -> None:
        self.clock, self.row, self.takes = clock, row, takes
        self.policy = BatchPolicy(max_size=max_size)
        self.allowed: dict[str, list[float]] = {}
        self.kills: list[str] = []
        self.destructors = False

    def call(self, kind: str) -> None:
        began, until = self.clock.now, self.row.busy_until
        self.allowed.setdefault(kind, []).append(until - began)
        self.clock.now += self.takes()
        if self.clock.now > self.row.busy_until:
            self.kills.append(kind)

    def decode(self, request: Request) -> Any:
        self.call("decode")
        return Heavy(self, bytes(request.body).decode())

    def bucket(self, sample: Any) -> str:
        return "one"

    def predict(self, batch: list[Heavy]) -> list[str]:
        self.call("batch")
        bodies = [one.body for one in batch]
        if "memory" in bodies and len(bodies) > 1:
            raise torch.OutOfMemoryError("too many")
        return bodies

    def encode(self, output: str, request: Request) -> Any:
        self.call("encode")
        if output == "stream":
            return self.pieces()
        return self.async_pieces() if output == "async" else output.encode()

    def pieces(self) -> Iterator[str]:
        try:
            for _ in range(3):
                self.call("piece")
                yield "x"
        finally:
            self.call("generator's end")

    async def async_pieces(self) -> AsyncIterator[str]:
        for _ in range(3):
            self.call("async piece")
            yield "x"
            await asyncio.sleep(0)

    def on_session_open(self, session: Session) -> None:
        self.call("session opens")

    def on_session_close(self, session: Session) -> None:
        self.call("session closes")


class Slow(Host):
    """Its ``free`` is a call that may hang, as that of CUDA waits for the device."""

    runs_ahead = True

    def __init__(self, handler: Watched) -> None:
        self.handler = handler

    def free(self) -> None:
        self.handler.call("free")


class Rig:
    def __init__(self, takes: Callable[[], float] = lambda: 1.4, device: Any = None, max_size: int = 4) -> None:
        self.clock = FakeClock()
        self.row = Scoreboard.create().row(0)
        self.row.claim(1)
        self.handler = Watched(self.clock, self.row, takes, max_size)
        self.batcher = Batcher(self.handler.policy, 1000, self.clock, threads=self.handler.decode_threads)
        self.answers: dict[int, object] = {}
        rules = Rules(stream_idle=IDLE, timeout=TIMEOUT)
        self.device = device = Slow(self.handler) if device is None else device
        self.engine = Engine(self.handler, self.batcher, self.row, self._deliver, rules, device, clock=self.clock)
        self.items: list[Item] = []

    def _deliver(self, outcomes: list[tuple[Item, object]]) -> None:
        for item, outcome in outcomes:
            self.answers[item.id] = outcome
            if item.live is not None:
                item.live.flow.used = item.live.flow.sent

    def put(self, body: str, left: float = TIMEOUT, **fields: Any) -> Item:
        """A request with so many seconds left."""
        request = Request(body.encode(), deadline=Deadline(self.clock.now + left))
        item = Item(len(self.items) + 1, request, **fields)
        self.items.append(item)
        assert self.batcher.put(item, accepted=True)
        return item

    def run(self) -> Watched:
        if isinstance(self.device, FakeDevice):
            self.device.takes = 3
        self.batcher.close()
        self.engine.run()
        assert self.row.busy_until == 0
        return self.handler


def session(id: str) -> Session:
    return Session(id, datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))


LATE = 0.1  # seconds left when a call begins


def opening(rig: Rig) -> None:
    rig.put("a", LATE, session=session("s"), opens=True)


def closing(rig: Rig) -> None:
    rig.put("b", LATE, session=session("t"), command=closed)


def cancelled_stream(rig: Rig) -> None:
    item = rig.put("stream", 9.0)
    rig.engine.step()
    item.cancelled = True


def expired_sample(rig: Rig) -> None:
    rig.handler.destructors = True
    rig.put("a", LATE)  # its own decode makes it late


KINDS: dict[str, tuple[Callable[[Rig], object], float]] = {
    "decode": (lambda rig: rig.put("a", LATE), TIMEOUT),
    "batch": (lambda rig: rig.put("a", 1.5), TIMEOUT),
    "encode": (lambda rig: rig.put("a", 1.5), TIMEOUT),
    "piece": (lambda rig: rig.put("stream", 1.5), IDLE),
    "async piece": (lambda rig: rig.put("async", 1.5), IDLE),
    "generator's end": (cancelled_stream, CLOSE_TIME),
    "session opens": (opening, TIMEOUT),
    "session closes": (closing, TIMEOUT),
    "destructor": (expired_sample, DROP_TIME),
    "free": (lambda rig: [rig.put("memory", 9.0), rig.put("memory", 9.0)], TIMEOUT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_begins_just_before_a_deadline_has_time_and_one_that_hangs_has_an_end(kind: str) -> None:
    send, most = KINDS[kind]
    rig = Rig()
    send(rig)
    handler = rig.run()
    assert not handler.kills
    assert handler.allowed[kind]
    assert all(0 < seconds <= most for seconds in handler.allowed[kind]), handler.allowed


def test_no_call_is_ended_among_a_thousand_that_are_slow_but_alive() -> None:
    dice = random.Random(5)
    rig = Rig(takes=lambda: dice.choice([0.001, 0.5, 1.9]))
    handler = rig.handler
    sessions = 0
    while sum(len(found) for found in handler.allowed.values()) < 1000:
        body = dice.choice(["a", "b", "memory", "stream", "async"])
        fields: dict[str, Any] = {}
        if dice.random() < 0.3:
            sessions += 1
            fields = {"session": session(str(sessions)), "opens": True}
        item = rig.put(body, dice.choice([LATE, 1.0, TIMEOUT, 30.0]), **fields)
        if dice.random() < 0.5:
            rig.engine.step()
        if dice.random() < 0.3:
            rig.batcher.wake()
            if rig.engine.streams.is_async:
                rig.engine.streams.wait()
        item.cancelled = dice.random() < 0.1
    rig.run()
    assert set(handler.allowed) >= {"decode", "batch", "encode", "piece", "async piece", "session opens", "free"}
    assert handler.kills == []


# The device.


def flying() -> tuple[Rig, FakeDevice]:
    device = FakeDevice()
    rig = Rig(takes=lambda: 0.0, device=device, max_size=1)
    return rig, device


def test_a_batch_on_the_device_has_its_own_time_and_the_next_one_its_own_from_when_it_begins() -> None:
    rig, device = flying()
    rig.put("a", 0.1)
    rig.put("b", 0.2)
    rig.engine.step()
    assert rig.row.busy_until == rig.clock.now + TIMEOUT
    rig.clock.now += 1.5
    first = rig.row.busy_until
    rig.put("c")
    rig.engine.step()
    assert rig.row.busy_until == first, "newcomers move nothing"
    device.landings[0].finish()
    rig.engine.step()
    assert rig.row.busy_until == rig.clock.now + TIMEOUT, "the next one begins now"
    rig.run()


def test_a_device_that_hangs_is_not_excused_by_calls_of_user_code_beside_it() -> None:
    rig, _ = flying()
    rig.put("a")
    rig.engine.step()
    rig.clock.now += TIMEOUT + 0.1
    seen: list[float] = []
    rig.handler.takes = lambda: seen.append(rig.row.busy_until) or 0.0  # type: ignore[func-returns-value]
    rig.put("b")
    rig.engine.step()
    assert seen[0] < rig.clock.now, "while it decodes the next one"
    assert rig.row.busy_until < rig.clock.now


def test_a_device_that_was_done_while_the_thread_was_in_user_code_does_not_count_as_one_that_hangs() -> None:
    rig, device = flying()
    rig.put("a", 1.0)
    rig.engine.step()
    landing = device.landings[0]

    def takes() -> float:
        landing.finish()
        return TIMEOUT - 0.01

    rig.handler.takes = takes
    rig.put("b")
    rig.engine.step()
    assert not rig.handler.kills
    assert rig.row.busy_until == 0.0 or rig.row.busy_until > rig.clock.now


def test_the_host_waits_for_the_device_no_longer_than_the_device_may_take() -> None:
    rig, device = flying()
    waits: list[float] = []

    def on_wait(landing: FakeLanding) -> None:
        waits.append(rig.row.busy_until - rig.clock.now)
        landing.finish()

    device.on_wait = on_wait
    rig.put("stream")
    rig.engine.step()
    device.landings[0].finish()
    rig.engine.step()
    rig.put("b")
    rig.engine.step()
    assert waits == [TIMEOUT]
    rig.run()


# Decode threads.


class Threaded(Handler):
    """``hang`` waits for ``go``; all else is quick."""

    decode_threads = 2
    policy = BatchPolicy(max_size=8)

    def __init__(self) -> None:
        self.go = threading.Event()
        self.hangs = 0

    def decode(self, request: Request) -> bytes:
        body = bytes(request.body)
        if body == b"hang":
            self.hangs += 1
            assert self.go.wait(10)
        return body

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return batch

    def encode(self, output: bytes, request: Request) -> bytes:
        return output


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


class ThreadedRig(Rig):
    def __init__(self, threads: int) -> None:
        super().__init__()
        handler = Threaded()
        handler.decode_threads = threads
        self.threaded = handler
        self.batcher = Batcher(handler.policy, 1000, self.clock, threads=handler.decode_threads)
        self.engine = Engine(handler, self.batcher, self.row, self._deliver, Rules(timeout=TIMEOUT), clock=self.clock)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_decode_thread_that_hangs_is_not_excused_by_newcomers(threads: int) -> None:
    rig = ThreadedRig(threads)
    rig.put("hang")
    rig.engine.step()
    until(lambda: rig.threaded.hangs and rig.row.busy_until)
    hung = rig.row.busy_until
    assert hung == rig.clock.now + TIMEOUT
    for n in range(12):
        rig.clock.now += 0.1
        item = rig.put(str(n))
        rig.engine.step()
        if threads == 2:
            until(lambda: (rig.engine.step(), item.id in rig.answers)[1])  # noqa: B023
        assert rig.row.busy_until == hung
    assert rig.row.running() == [1], "what waits for a thread, or is answered, is not at risk"
    rig.threaded.go.set()
    rig.run()
    assert len(rig.answers) == 13


def test_a_request_that_waited_for_a_decode_thread_until_its_end_is_not_decoded() -> None:
    rig = ThreadedRig(1)
    rig.put("hang", 60.0)
    rig.engine.step()
    until(lambda: rig.threaded.hangs)
    rig.put("hang", 1.0)
    rig.engine.step()
    rig.clock.now += 1.1
    rig.threaded.go.set()
    rig.run()
    assert rig.threaded.hangs == 1
    assert getattr(rig.answers[2], "code", "") == "deadline_exceeded"


def test_a_decode_that_waited_for_its_thread_has_its_time_from_when_it_begins() -> None:
    rig = ThreadedRig(1)
    rig.put("hang", TIMEOUT)
    rig.engine.step()
    until(lambda: rig.threaded.hangs)
    rig.put("hang", TIMEOUT)
    rig.engine.step()
    rig.clock.now += 1.9
    rig.threaded.go.set()
    rig.threaded.go = threading.Event()
    until(lambda: rig.threaded.hangs == 2 and rig.row.running() == [2])
    assert rig.row.busy_until == rig.clock.now + TIMEOUT
    rig.threaded.go.set()
    rig.run()


def test_each_thread_has_its_words_of_the_row_and_the_earliest_counts() -> None:
    row = Scoreboard.create().row(3)
    row.claim(1)
    row.reserve(MAX_THREADS)
    row.start([7, 8], 50.0)
    row.begin(0, 9, 40.0)
    row.begin(MAX_THREADS - 1, 10, 30.0)
    assert (row.busy_until, row.running()) == (30.0, [7, 8, 9, 10])
    row.end(MAX_THREADS - 1)
    assert (row.busy_until, row.running()) == (40.0, [7, 8, 9])
    row.finish(2)
    assert (row.busy_until, row.running()) == (40.0, [9])
    row.reserve(2)
    assert (row.busy_until, row.running()) == (0.0, [])
