"""Flights: requests under work while the engine's thread is free: batches on a device and samples in decode threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from serving.deadline import Clock
from serving.worker.batching.batcher import Item
from serving.worker.device.border import Landing
from serving.worker.engine.progressrow import EngineRow, ProgressRow

AHEAD = 2  # batches on a device at a time, so that it has the next one when the first is done
SOONEST, LATEST = 0.00005, 0.0005  # seconds between checks whether a batch is done
LANDING = 1.0  # seconds within which a finished batch is taken off the device


@dataclass(slots=True, eq=False)
class Flight:
    """One batch, on the device since ``since``; its outputs may take until ``until`` to reach the host."""

    bucket: Hashable
    items: list[Item]
    landing: Landing
    since: float
    until: float = 0.0


class Flights:
    """The flights of one engine, used on its thread only.

    The device may take ``most`` seconds for one batch, counted from the end of the batch before.
    """

    def __init__(self, most: float, clock: Clock = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self.batches: deque[Flight] = deque()
        """The batches on the device, in order of their start."""
        self._decoding: dict[int, Item] = {}
        self.changes = 0
        """The number of changes of ``items``."""
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
        """Remove and return the oldest batch on the device; None without one, or where it runs and ``only_done``."""
        if not self.batches or (only_done and not has_landed(self.batches[0].landing)):
            return None
        self.batches[0].until = self.until()
        flight = self.batches.popleft()
        self._until = self._clock() + self._most
        self.changes += 1
        return flight

    def decoding(self, item: Item) -> None:
        """Count a request that is queued for a decode thread."""
        self._decoding[item.id] = item

    def decoded(self, item: Item) -> None:
        """Count one less."""
        self._decoding.pop(item.id, None)

    def pause(self) -> float:
        """Return the seconds until the next look: a fraction of the time that the first batch has taken so far."""
        if not self.batches:
            return 1.0
        return min(LATEST, max(SOONEST, (self._clock() - self.batches[0].since) / 8))

    def items(self) -> list[Item]:
        """Return the requests on the device."""
        return [item for flight in self.batches for item in flight.items]

    def until(self) -> float:
        """Return the time until which the device may take for its current batch.

        A batch that was done while the engine's thread was in user code does not count as hung.
        """
        soon = self._clock() + LANDING
        return soon if self._until < soon and has_landed(self.batches[0].landing) else self._until

    @property
    def hang(self) -> bool:
        """Whether the device has had its time without finishing the batch."""
        return bool(self.batches) and self._clock() >= self._until and not has_landed(self.batches[0].landing)


def has_landed(landing: Landing) -> bool:
    """Return whether waiting for ``landing`` returns at once. An error counts: waiting raises it."""
    try:
        return landing.done()
    except Exception:
        return True


def progress_of(row: EngineRow, flights: Flights, runs_ahead: bool) -> ProgressRow:
    """Return the progress row of an engine, whose device may run ahead of its thread."""
    return MergedProgress(row, flights) if runs_ahead else row


class MergedProgress:
    """Records the progress of the engine's thread and also lists the requests on the device.

    While the thread is in user code that call is watched, else the device; a hung device is not excused by the next
    call.
    """

    def __init__(self, progress: EngineRow, flights: Flights) -> None:
        self._progress = progress
        self._flights = flights
        self._seen = 0
        self.reserve, self.begin, self.end = progress.reserve, progress.begin, progress.end
        self.hold = progress.hold

    def start(self, ids: Sequence[int], until: float) -> None:
        self._keep()
        self._progress.start(ids, self._sooner(until))

    def renew(self, until: float) -> None:
        self._progress.renew(self._sooner(until))

    def _sooner(self, until: float) -> float:
        return self._flights.until() if self._flights.hang else until

    def _keep(self) -> None:
        """List the requests on the device, only after changes: there may be hundreds, and a call for each request."""
        if self._seen != self._flights.changes:
            self._seen = self._flights.changes
            self._progress.keep([item.id for item in self._flights.items()])

    def pause(self) -> None:
        self._progress.pause()
        self._resume()

    def finish(self, completed: int) -> None:
        self._progress.finish(completed)
        self._resume()

    def _resume(self) -> None:
        self._keep()
        if self._flights.batches:
            self._progress.start([], self._flights.until())
