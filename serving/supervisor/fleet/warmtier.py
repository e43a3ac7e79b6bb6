"""WarmTier: workers of evicted models that keep their weights in host memory, until the model is wanted again.

A parked worker is a spare for one model: it keeps its row and its process, and frees its device. Decides, never acts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from serving.model.model import Model
from serving.supervisor.fleet.actions import Discard
from serving.supervisor.fleet.deployment import Role, Status, WorkerProcess
from serving.supervisor.fleet.spares import CUT
from serving.supervisor.fleet.workers import Workers

CLOSE_TIME = 5.0  # seconds for a parked worker to end
FULL = ("reduce-overhead", "max-autotune")  # compile modes that record CUDA graphs, whose memory cannot be moved


def essence(model: Model) -> Model:
    """Return the part of a model that its worker depends on."""
    return msgspec.structs.replace(model, replicas=1, pin=False)


class WarmTier:
    """The parked ones among the ``workers``. ``limit`` is the bytes of host memory that they may hold together; 0 means
    no warm tier.
    """

    def __init__(self, workers: Workers, limit: int = 0) -> None:
        self._workers = workers
        self._limit = limit
        self._closed = False

    # Lookups.

    def __len__(self) -> int:
        return self._workers.count(Role.PARKED)

    def all(self) -> list[WorkerProcess]:
        """Return the parked workers, the one parked longest ago first."""
        return self._workers.of(Role.PARKED)

    def charge(self) -> dict[str, int]:
        """Return the bytes of each GPU that parked workers still hold: their CUDA contexts."""
        held: dict[str, int] = {}
        for one in self.all():
            if one.row.device_memory:
                held[one.device] = held.get(one.device, 0) + one.row.device_memory
        return held

    def takes(self, model: Model, size: int) -> bool:
        """Return whether a worker of ``model`` that will hold about ``size`` bytes may be parked."""
        moves = model.gpus == 1 and not model.speed.cuda_graphs and model.speed.compile not in FULL
        return moves and not self._closed and 0 < size <= self._limit

    def of(self, model: Model, device: str | None = None) -> WorkerProcess | None:
        """Return a worker that holds exactly this model, on ``device`` unless that is None; or None."""
        wanted = essence(model)
        fit = (one for one in self.all() if one.may_take_over and (device is None or one.device == device))
        return next((one for one in fit if essence(one.model) == wanted), None)

    # Arrivals and departures.

    def park(self, worker: WorkerProcess, now: float, wanted: Collection[str] = ()) -> list[Discard]:
        """Take over a replica. If all hold too many bytes, those parked longest ago end.

        Workers of ``wanted`` models stay, since they are about to be called back.
        """
        self._workers.park(worker, now)
        actions: list[Discard] = [self._dismiss(worker, now)] if self._closed else []
        staying = [one for one in self.all() if one.is_wanted and one.name not in wanted]
        while sum(one.size for one in staying) > self._limit:
            actions.append(self._dismiss(staying.pop(0), now))
        return actions

    def forget(self, model: Model, now: float) -> list[Discard]:
        """End the workers with the model's name that hold an older version of it."""
        wanted = essence(model)
        stale = [one for one in self.all() if one.name == model.name and essence(one.model) != wanted]
        return [self._dismiss(one, now) for one in stale if one.is_wanted]

    def leave_device(self, device: str, now: float) -> list[Discard]:
        return [self._dismiss(one, now) for one in self.all() if one.device == device and one.is_wanted]

    def yield_one(self, now: float) -> list[Discard]:
        """End the worker parked longest ago, for its row or its memory on a GPU. At most one ends at a time, so that no
        more end than necessary.
        """
        parked = self.all()
        if not all(one.is_wanted for one in parked):
            return []
        return [self._dismiss(one, now) for one in parked[:1]]

    def close(self, now: float) -> list[Discard]:
        """End all workers and take no more."""
        self._closed = True
        return [self._dismiss(one, now) for one in self.all() if one.is_wanted]

    def tick(self, now: float) -> list[Discard]:
        """Return the workers to kill, which were told to end and did not in time, or cannot be told."""
        return [Discard(one, at_once=True) for one in self.all() if self._overstays(one, now)]

    def _overstays(self, parked: WorkerProcess, now: float) -> bool:
        is_late = not parked.is_wanted and now > parked.since + CLOSE_TIME
        return is_late or (parked.cut is not None and now > parked.cut + CUT)

    def exited(self, parked: WorkerProcess, now: float) -> None:
        self._workers.ended(parked, now)

    def _dismiss(self, parked: WorkerProcess, now: float) -> Discard:
        parked.become(Status.RETIRING, now)
        return Discard(parked)


def joined(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Return the sums of bytes by device."""
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}
