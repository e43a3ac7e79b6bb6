"""Flights: requests that user code works on while the engine's thread is free: batches on a device that runs ahead, and
samples that decode threads make."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from serving.worker.batcher import Item
from serving.worker.device.border import Landing
from serving.worker.stamps import Stamps

AHEAD = 2  # batches on a device at a time: it finds the next one there when it has done the first
SOONEST, LATEST = 0.00005, 0.0005  # seconds between looks at whether a batch is done


@dataclass(slots=True, eq=False)
class Flight:
    """One batch on the device; its outputs are on the way to the host."""

    bucket: Hashable
    items: list[Item]
    landing: Landing
    since: float = field(default_factory=time.monotonic)


class Flights:
    """The engine's thread's alone."""

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque()
        self._decoding: dict[int, Item] = {}
        self.changes = 0
        """How often what ``items`` gives has become another."""

    def __bool__(self) -> bool:
        return bool(self._flights or self._decoding)

    def __len__(self) -> int:
        """Batches on the device."""
        return len(self._flights)

    @property
    def has_room(self) -> bool:
        return len(self._flights) < AHEAD

    def add(self, flight: Flight) -> None:
        self._flights.append(flight)
        self.changes += 1

    def first(self, only_done: bool) -> Flight | None:
        """The batch that has been there longest is to land now."""
        if not self._flights or (only_done and not has_landed(self._flights[0].landing)):
            return None
        self.changes += 1
        return self._flights.popleft()

    def begin(self, item: Item) -> None:
        self._decoding[item.id] = item
        self.changes += 1

    def end(self, item: Item) -> None:
        self._decoding.pop(item.id, None)
        self.changes += 1

    def pause(self) -> float:
        """Seconds until it is worth looking again: a part of the time that the first batch has taken already."""
        if not self._flights:
            return 1.0
        return min(LATEST, max(SOONEST, (time.monotonic() - self._flights[0].since) / 8))

    def items(self) -> list[Item]:
        return [*(item for flight in self._flights for item in flight.items), *self._decoding.values()]


def has_landed(landing: Landing) -> bool:
    """Whether waiting for it comes back at once. What fails when it is asked has landed: waiting raises why."""
    try:
        return landing.done()
    except Exception:
        return True


def latest(items: Sequence[Item]) -> float:
    """The last of their deadlines."""
    return max((item.request.deadline.at for item in items), default=0.0)


class Merged:
    """Stamps of the engine's thread, with the requests in flight among those that are running: the supervisor watches
    over these, too."""

    def __init__(self, stamps: Stamps, flights: Flights) -> None:
        self._stamps = stamps
        self._flights = flights
        self._seen = 0
        self._until = 0.0

    def start(self, ids: Sequence[int], until: float) -> None:
        self._keep()
        self._stamps.start(ids, max(until, self._until))

    def _keep(self) -> None:
        """Only where they have changed: there may be hundreds of them, and a stamp for each request is made."""
        if self._seen != self._flights.changes:
            self._seen = self._flights.changes
            items = self._flights.items()
            self._until = latest(items)
            self._stamps.keep([item.id for item in items])

    def pause(self) -> None:
        self._stamps.pause()
        self._resume()

    def finish(self, completed: int) -> None:
        self._stamps.finish(completed)
        self._resume()

    def hold(self, streams: int) -> None:
        self._stamps.hold(streams)

    def count_padding(self, values: int, padded: int) -> None:
        self._stamps.count_padding(values, padded)

    def _resume(self) -> None:
        self._keep()
        if self._flights:
            self._stamps.start([], self._until)
