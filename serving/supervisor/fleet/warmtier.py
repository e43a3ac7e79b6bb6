"""WarmTier: workers of evicted models that keep their weights in host memory, until the model is wanted again.

A parked worker is a spare for one model: it keeps its row and its process, and frees its device. Decides, never acts.

parked → taken by a replica of the same model
   └───→ ending → (exit: forgotten)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from serving.ipc.scoreboard import Row
from serving.model.model import Model
from serving.supervisor.fleet.rows import Rows
from serving.supervisor.fleet.spares import CUT

CLOSE_TIME = 5.0  # seconds for a parked worker to end
FULL = ("reduce-overhead", "max-autotune")  # compile modes that record CUDA graphs, whose memory cannot be moved


@dataclass(slots=True, eq=False)
class Parked:
    """A parked worker. ``size`` is in bytes of host memory; ``ending`` is the instant at which it was told to end."""

    model: Model
    device: str
    row: Row
    epoch: int
    pid: int
    size: int
    ending: float | None = None
    cut: float | None = None

    @property
    def is_useful(self) -> bool:
        return self.ending is None and self.cut is None

    def overstays(self, now: float) -> bool:
        told = self.ending is not None and now > self.ending + CLOSE_TIME
        return told or (self.cut is not None and now > self.cut + CUT)


@dataclass(frozen=True, slots=True)
class Discard:
    """Make a parked worker close its handler and end; ``at_once`` leaves it no time for that."""

    parked: Parked
    at_once: bool = False


def essence(model: Model) -> Model:
    """Return the part of a model that its worker depends on."""
    return msgspec.structs.replace(model, replicas=1, pin=False)


class WarmTier:
    """The parked workers. ``limit`` is the bytes of host memory that they may hold together; 0 means no warm tier."""

    def __init__(self, rows: Rows, limit: int = 0) -> None:
        self._rows = rows
        self._limit = limit
        self._all: list[Parked] = []
        self._closed = False

    # Lookups.

    def __len__(self) -> int:
        return len(self._all)

    def all(self) -> list[Parked]:
        """Return the parked workers, the one parked longest ago first."""
        return list(self._all)

    def find(self, row: int, epoch: int) -> Parked | None:
        return next((one for one in self._all if one.row.index == row and one.epoch == epoch), None)

    def by_pid(self, pid: int) -> Parked | None:
        return next((one for one in self._all if one.pid == pid), None)

    def wants(self, row: int, epoch: int) -> bool:
        """Return whether the process should go on living."""
        parked = self.find(row, epoch)
        return parked is not None and parked.ending is None

    def charge(self) -> dict[str, int]:
        """Return the bytes of each GPU that parked workers still hold: their CUDA contexts."""
        held: dict[str, int] = {}
        for one in self._all:
            if one.row.device_memory:
                held[one.device] = held.get(one.device, 0) + one.row.device_memory
        return held

    # Arrivals and departures.

    def takes(self, model: Model, size: int) -> bool:
        """Return whether a worker of ``model`` that will hold about ``size`` bytes may be parked."""
        moves = model.gpus == 1 and not model.speed.cuda_graphs and model.speed.compile not in FULL
        return moves and not self._closed and 0 < size <= self._limit

    def add(self, parked: Parked, now: float, wanted: Collection[str] = ()) -> list[Discard]:
        """Take over a worker, row and process. If all hold too many bytes, those parked longest ago end.

        Workers of ``wanted`` models stay, since they are about to be called back.
        """
        self._all.append(parked)
        actions: list[Discard] = [self._dismiss(parked, now)] if self._closed else []
        staying = [one for one in self._all if one.ending is None and one.model.name not in wanted]
        while sum(one.size for one in staying) > self._limit:
            actions.append(self._dismiss(staying.pop(0), now))
        return actions

    def of(self, model: Model, device: str | None = None) -> Parked | None:
        """Return a worker that holds exactly this model, on ``device`` unless that is None; or None."""
        wanted = essence(model)
        fit = (one for one in self._all if one.is_useful and (device is None or one.device == device))
        return next((one for one in fit if essence(one.model) == wanted), None)

    def take(self, parked: Parked) -> None:
        """Hand a worker over to the caller."""
        self._all.remove(parked)

    def forget(self, model: Model, now: float) -> list[Discard]:
        """End the workers with the model's name that hold an older version of it."""
        wanted = essence(model)
        stale = [one for one in self._all if one.model.name == model.name and essence(one.model) != wanted]
        return [self._dismiss(one, now) for one in stale if one.ending is None]

    def leave_device(self, device: str, now: float) -> list[Discard]:
        return [self._dismiss(one, now) for one in self._all if one.device == device and one.ending is None]

    def yield_one(self, now: float) -> list[Discard]:
        """End the worker parked longest ago, for its row or its memory on a GPU. At most one ends at a time, so that no
        more end than necessary.
        """
        if any(one.ending is not None for one in self._all):
            return []
        return [self._dismiss(one, now) for one in self._all[:1]]

    @property
    def is_ending(self) -> bool:
        return any(one.ending is not None for one in self._all)

    def close(self, now: float) -> list[Discard]:
        """End all workers and take no more."""
        self._closed = True
        return [self._dismiss(one, now) for one in self._all if one.ending is None]

    def tick(self, now: float) -> list[Discard]:
        """Return the workers to kill, which were told to end and did not in time."""
        return [Discard(one, at_once=True) for one in self._all if one.overstays(now)]

    def exited(self, parked: Parked) -> None:
        self._all.remove(parked)
        self._rows.give_back(parked.row)

    def _dismiss(self, parked: Parked, now: float) -> Discard:
        parked.ending = now
        return Discard(parked)


def joined(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Return the sums of bytes by device."""
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}
