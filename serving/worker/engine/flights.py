"""Flights: requests that user code works on while the engine's thread is free: batches on a device that runs ahead, and
samples that decode threads make."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from serving.deadline import Clock
from serving.worker.batching.batcher import Item
from serving.worker.device.border import Landing
from serving.worker.engine.stamps import Row

AHEAD = 2  # batches on a device at a time: it finds the next one there when it has done the first
SOONEST, LATEST = 0.00005, 0.0005  # seconds between looks at whether a batch is done
LANDING = 1.0  # seconds within which a batch that is done is taken off the device


@dataclass(slots=True, eq=False)
class Flight:
    """One batch on the device since ``since``; its outputs are on the way to the host, which may wait until ``until``
    for them."""

    bucket: Hashable
    items: list[Item]
    landing: Landing
    since: float
    until: float = 0.0


class Flights:
    """The engine's thread's alone. ``most`` seconds are what the device may take for one batch, counted from when it is
    done with the one before.
    """

    def __init__(self, most: float, clock: Clock = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self.batches: deque[Flight] = deque()
        """Those on the device, the first one first."""
        self._decoding: dict[int, Item] = {}
        self.changes = 0
        """How often what ``items`` gives has become another."""
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self.batches or self._decoding)

    @property
    def has_room(self) -> bool:
        return len(self.batches) < AHEAD

    def add(self, flight: Flight) -> None:
        self.batches.append(flight)
        if len(self.batches) == 1:
            self._until = self._clock() + self._most
        self.changes += 1

    def first(self, only_done: bool) -> Flight | None:
        """The batch that has been there longest is to land now."""
        if not self.batches or (only_done and not has_landed(self.batches[0].landing)):
            return None
        self.batches[0].until = self.until()
        flight = self.batches.popleft()
        self._until = self._clock() + self._most
        self.changes += 1
        return flight

    def begin(self, item: Item) -> None:
        """A decode thread has been given a request, or will be."""
        self._decoding[item.id] = item

    def end(self, item: Item) -> None:
        self._decoding.pop(item.id, None)

    def pause(self) -> float:
        """Seconds until it is worth looking again: a part of the time that the first batch has taken already."""
        if not self.batches:
            return 1.0
        return min(LATEST, max(SOONEST, (self._clock() - self.batches[0].since) / 8))

    def items(self) -> list[Item]:
        """Those on the device."""
        return [item for flight in self.batches for item in flight.items]

    def until(self) -> float:
        """Until when the device has time for the batch that it is at, if nothing else is looked after. One that it has
        done, while the engine's thread was in user code, does not count as one that hangs."""
        soon = self._clock() + LANDING
        return soon if self._until < soon and has_landed(self.batches[0].landing) else self._until

    @property
    def hang(self) -> bool:
        """Whether the device has had its time and has not done the batch."""
        return bool(self.batches) and self._clock() >= self._until and not has_landed(self.batches[0].landing)


def has_landed(landing: Landing) -> bool:
    """Whether waiting for it comes back at once. What fails when it is asked has landed: waiting raises why."""
    try:
        return landing.done()
    except Exception:
        return True


class Merged:
    """Stamps of the engine's thread, with the requests on the device among those that are running. While the thread is
    in user code that call is watched, else the device; one that hangs is not excused by the next call of user code."""

    def __init__(self, stamps: Row, flights: Flights) -> None:
        self._stamps = stamps
        self._flights = flights
        self._seen = 0
        self.reserve, self.begin, self.end = stamps.reserve, stamps.begin, stamps.end
        self.hold, self.count_padding = stamps.hold, stamps.count_padding

    def start(self, ids: Sequence[int], until: float) -> None:
        self._keep()
        self._stamps.start(ids, self._sooner(until))

    def renew(self, until: float) -> None:
        self._stamps.renew(self._sooner(until))

    def _sooner(self, until: float) -> float:
        return self._flights.until() if self._flights.hang else until

    def _keep(self) -> None:
        """Only where they have changed: there may be hundreds of them, and a stamp for each request is made."""
        if self._seen != self._flights.changes:
            self._seen = self._flights.changes
            self._stamps.keep([item.id for item in self._flights.items()])

    def pause(self) -> None:
        self._stamps.pause()
        self._resume()

    def finish(self, completed: int) -> None:
        self._stamps.finish(completed)
        self._resume()

    def _resume(self) -> None:
        self._keep()
        if self._flights.batches:
            self._stamps.start([], self._flights.until())
