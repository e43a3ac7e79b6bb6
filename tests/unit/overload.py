"""A model server under more load than it can carry, simulated: the real batcher and the real engine, arrivals and calls
by an injected clock."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from serving.deadline import Deadline
from serving.errors import ServingError
from serving.handler import BatchPolicy, Handler
from serving.request import Request, Response
from serving.scoreboard import Scoreboard
from serving.worker.batcher import Batcher, Item
from serving.worker.device.border import Landing
from serving.worker.device.host import Host
from serving.worker.engine import Engine
from serving.worker.rules import Rules
from serving.worker.streams import Begin, End, More

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


class Simulation(Handler):
    """``answers`` counts by code what became of the requests, "200" for those answered in time and "late" for those
    that were computed for nobody. With ``piece`` an answer comes in ten pieces that take so many seconds each, and no
    batch begins meanwhile. ``ahead``: on a device that runs ahead of the host."""

    def __init__(
        self,
        arrivals: Iterable[Arrival],
        time_of: Time,
        timeout: float = 60.0,
        piece: float = 0.0,
        ahead: bool = False,
        **policy: Any,
    ) -> None:
        self.policy = BatchPolicy(**policy)
        self.clock = FakeClock()
        self.arrivals = deque(sorted(arrivals))
        self.time_of = time_of
        self.piece = piece
        self.exclusive_streams = piece > 0
        self.answers: Counter[str] = Counter()
        self.good: list[Arrival] = []
        self.refusals: list[tuple[float, ServingError]] = []
        self.sizes: list[int] = []
        self.kills = 0
        self._count = 0
        self._known: dict[str, Arrival] = {}
        self.row = Scoreboard.create().row(0)
        self.row.claim(1)
        self.batcher = Batcher(self.policy, 1024, self.clock, timeout=timeout)
        rules = Rules(timeout=timeout)
        self.chip = Ahead(self) if ahead else None
        self.engine = Engine(self, self.batcher, self.row, self._deliver, rules, self.chip, clock=self.clock)

    def run(self) -> Simulation:
        while self.arrivals or self.batcher.size or len(self.engine.streams) or (self.chip and self.chip.ends):
            self._arrive()
            if len(self.engine.streams):
                self.engine.step()
            elif self.chip is not None and self.chip.ends:
                self.engine.step()
                soonest = [*list(self.chip.ends)[:1], *(one.at for one in list(self.arrivals)[:1])]
                self.clock.now = max(self.clock.now, min(soonest, default=0.0))
            elif not self.batcher.size:
                self.clock.now = self.arrivals[0].at
            elif (delay := self.batcher.delay()) != 0:
                assert delay is not None
                self.clock.now += min(delay, self.arrivals[0].at - self.clock.now) if self.arrivals else delay
            else:
                self.engine.step()
        return self

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
        return self._known.pop(request.request_id)

    def bucket(self, sample: Arrival) -> Hashable:
        return sample.bucket

    def predict(self, batch: list[Arrival]) -> list[Arrival]:
        self.sizes.append(len(batch))
        if self.chip is None:
            self.pass_until(self.clock.now + self.time_of([one.weight for one in batch]))
        return batch

    def pass_until(self, end: float) -> None:
        """User code or the device takes so long; the supervisor looks at the end."""
        while self.arrivals and self.arrivals[0].at <= end:
            self.clock.now = max(self.clock.now, self.arrivals[0].at)
            self._arrive()
        self.clock.now = max(end, self.clock.now)
        self.kills += end > self.row.busy_until

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
