"""A model server under more load than it can carry, simulated: the real batcher and the real engine, arrivals and calls
by an injected clock."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from serving.deadline import Deadline
from serving.errors import ServingError
from serving.handler import BatchPolicy, Handler
from serving.ipc.scoreboard import Scoreboard
from serving.request import Request, Response
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.device.border import Landing
from serving.worker.device.host import Host
from serving.worker.engine.decoding import Decoded, decode
from serving.worker.engine.engine import Engine
from serving.worker.engine.streams.parts import Begin, End, More
from serving.worker.rules import Rules

Time = Callable[[list[float]], float]
"""Seconds that a batch takes, by what its requests say of themselves."""


@dataclass(order=True)
class Arrival:
    """``weight`` is what the request says of itself, ``timeout`` the seconds in which it wants its answer."""

    at: float
    weight: float = field(compare=False, default=1.0)
    timeout: float = field(compare=False, default=60.0)
    bucket: str = field(compare=False, default="one")
    accepted: bool = field(compare=False, default=False)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ahead(Host):
    """A device that works on one batch after the other while the host does something else."""

    name = "cuda:0"
    runs_ahead = True

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.ends: deque[float] = deque()

    def fetch(self, outputs: list[Arrival]) -> Landing:  # type: ignore[override]
        began = max([self.simulation.clock.now, *self.ends])
        end = began + self.simulation.time_of([one.weight for one in outputs])
        self.ends.append(end)
        return Flying(outputs, end, self)


@dataclass
class Flying:
    outputs: list[Arrival]
    end: float
    device: Ahead

    def done(self) -> bool:
        return self.device.simulation.clock.now >= self.end

    def wait(self) -> list[Arrival]:
        self.device.simulation.pass_until(self.end)
        self.device.ends.remove(self.end)
        return self.outputs


class Pool:
    """In the place of an engine's decode threads, as many. ``ends`` are when those are done with what they are at."""

    def __init__(self, simulation: Simulation) -> None:
        assert simulation.engine._entrance.threads is not None
        self.simulation = simulation
        self.real = simulation.engine._entrance.threads
        self.ends: list[float] = []
        self.items: list[Item] = []
        self.waiting: deque[Item] = deque()
        self.done: deque[Decoded] = deque()
        simulation.engine._entrance.threads = self  # type: ignore[assignment]

    def submit(self, item: Item) -> None:
        self.waiting.append(item)
        self.finish(self.simulation.clock.now)

    def next_done(self) -> Decoded | None:
        return self.done.popleft() if self.done else None

    def close(self) -> None:
        self.real.close()

    def finish(self, now: float) -> None:
        """Until now, and begin with the next ones."""
        while self.ends and self.ends[0] <= now:
            del self.ends[0]
            item = self.items.pop(0)
            seconds = self.simulation.decode_time(item.reply_to.weight)
            self.done.append(replace(decode(self.simulation, item), seconds=seconds))
            self.simulation.batcher.wake()
        while self.waiting and len(self.ends) < self.simulation.decode_threads:
            self._begin(self.waiting.popleft(), now)

    def _begin(self, item: Item, now: float) -> None:
        if (skipped := self.real.skipped(item, now)) is not None:
            self.done.append(skipped)
            self.simulation.batcher.wake()
            return
        end = now + self.simulation.decode_time(item.reply_to.weight)
        at = bisect_right(self.ends, end)
        self.ends.insert(at, end)
        self.items.insert(at, item)


class Simulation(Handler):
    """``answers`` counts by code what became of the requests, "200" for those answered in time and "late" for those
    that were computed for nobody; ``ended`` has bucket, size and seconds of each batch. With ``piece`` an answer comes
    in ten pieces that take so many seconds each, and no batch begins meanwhile. A request takes ``decode`` seconds to
    decode, or what the function says of its weight, on one of ``threads`` if there are any. ``ahead``: on a device that
    runs ahead of the host."""

    def __init__(
        self,
        arrivals: Iterable[Arrival],
        time_of: Time,
        timeout: float = 60.0,
        piece: float = 0.0,
        decode: float | Callable[[float], float] = 0.0,
        threads: int = 0,
        ahead: bool = False,
        **policy: Any,
    ) -> None:
        self.policy = BatchPolicy(**policy)
        self.decode_threads = threads
        self.clock = FakeClock()
        self.arrivals = deque(sorted(arrivals))
        self.time_of = time_of
        self.piece = piece
        self.decode_time = decode if callable(decode) else lambda _: decode
        self.exclusive_streams = piece > 0
        self.answers: Counter[str] = Counter()
        self.good: list[Arrival] = []
        self.refusals: list[tuple[float, ServingError]] = []
        self.sizes: list[int] = []
        self.ended: list[tuple[str, int, float]] = []
        self.kills = 0
        self._count = 0
        self._known: dict[str, Arrival] = {}
        self.row = Scoreboard.create().row(0)
        self.row.claim(1)
        self.batcher = Batcher(self.policy, 1024, self.clock, timeout=timeout, threads=self.decode_threads)
        rules = Rules(timeout=timeout)
        self.chip = Ahead(self) if ahead else None
        self.engine = Engine(self, self.batcher, self.row, self._deliver, rules, self.chip, clock=self.clock)
        self.pool = Pool(self) if threads else None

    def run(self) -> Simulation:
        while self.arrivals or self.batcher.size or len(self.engine.streams) or (self.chip and self.chip.ends):
            self._arrive()
            if len(self.engine.streams):
                self.engine.step()
                continue
            if self.chip is not None and self.chip.ends:
                self.engine.step()
                delay: float | None = max(0.0, self.chip.ends[0] - self.clock.now) if self.chip.ends else 0.0
            else:
                delay = self.batcher.delay() if self.batcher.size else None
                if delay == 0:
                    self.engine.step()
            soonest = [*self._soonest(), *([] if delay is None else [self.clock.now + delay])]
            self._advance(min(soonest, default=self.clock.now))
        return self

    def _soonest(self) -> list[float]:
        """When the next thing happens without the engine."""
        return [*(one.at for one in list(self.arrivals)[:1]), *(self.pool.ends[:1] if self.pool else ())]

    def _arrive(self) -> None:
        while self.arrivals and self.arrivals[0].at <= self.clock.now:
            arrival = self.arrivals.popleft()
            request = Request(deadline=Deadline(arrival.at + arrival.timeout), request_id=str(self._count))
            self._known[request.request_id] = arrival
            self._count += 1
            item = Item(self._count, request, arrival)
            if not self.batcher.put(item, arrival.accepted):
                assert self.batcher.refusal is not None
                self.answers[f"{self.batcher.refusal.code} at the door"] += 1
                self.refusals.append((self.clock.now - arrival.at, self.batcher.refusal))

    def _deliver(self, outcomes: list[tuple[Item, Any]]) -> None:
        for item, outcome in outcomes:
            if item.live is not None:
                item.live.flow.used = item.live.flow.sent
            if isinstance(outcome, More | End):
                continue
            if not isinstance(outcome, Response | Begin):
                self.answers[outcome.code] += 1
                self.refusals.append((self.clock.now - item.reply_to.at, outcome))
            elif self.clock.now > item.request.deadline.at:
                self.answers["late"] += 1
            else:
                self.answers["200"] += 1
                self.good.append(item.reply_to)

    # The handler.

    def decode(self, request: Request) -> Arrival:
        arrival = self._known.pop(request.request_id)
        if self.pool is None and (seconds := self.decode_time(arrival.weight)):
            self.pass_until(self.clock.now + seconds)
        return arrival

    def bucket(self, sample: Arrival) -> Hashable:
        return sample.bucket

    def predict(self, batch: list[Arrival]) -> list[Arrival]:
        self.sizes.append(len(batch))
        began = self.clock.now
        if self.chip is None:
            self.pass_until(self.clock.now + self.time_of([one.weight for one in batch]))
            self.ended.append((batch[0].bucket, len(batch), self.clock.now - began))
        return batch

    def pass_until(self, end: float) -> None:
        """User code or the device takes so long; the supervisor looks at the end."""
        self._advance(end)
        self.kills += end > self.row.busy_until

    def _advance(self, end: float) -> None:
        while (soonest := min(self._soonest(), default=end + 1.0)) <= end:
            self.clock.now = max(self.clock.now, soonest)
            self._arrive()
            if self.pool is not None:
                self.pool.finish(self.clock.now)
        self.clock.now = max(end, self.clock.now)

    def encode(self, output: Arrival, request: Request) -> Any:
        return self._pieces() if self.piece else b"x"

    def _pieces(self) -> Iterator[bytes]:
        for _ in range(10):
            self.pass_until(self.clock.now + self.piece)
            yield b"x"


def poisson(rate: float, count: int, seed: int = 1, **fields: Any) -> list[Arrival]:
    """So many arrivals at random, ``rate`` a second."""
    dice, at, found = random.Random(seed), 1000.0, []
    for _ in range(count):
        at += dice.expovariate(rate)
        found.append(Arrival(at, **fields))
    return found
