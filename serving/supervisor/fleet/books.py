"""Books: the models, and the processes that serve them or wait to. Records only, decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from serving.ipc.messages import Placement
from serving.ipc.scoreboard import Scoreboard
from serving.supervisor.fleet.describe import placement_of
from serving.supervisor.fleet.replica import LIVE, Replica, Served, Status
from serving.supervisor.fleet.rows import Rows
from serving.supervisor.fleet.spares import Spare, Spares
from serving.supervisor.fleet.warmtier import Parked, WarmTier


class Books:
    """The fleet's records. ``warm_bytes`` of host memory are for workers of evicted models."""

    def __init__(self, board: Scoreboard, warm_bytes: int = 0) -> None:
        self._rows = Rows(board)
        self.spares = Spares(self._rows)
        self.warm = WarmTier(self._rows, warm_bytes)
        self._current: dict[str, Served] = {}
        self._all: list[Served] = []
        self._by_pid: dict[int, Replica] = {}

    def get(self, name: str) -> Served | None:
        return self._current.get(name)

    def served(self) -> list[Served]:
        """Return the current model of every name, by name; not those that are being replaced or tried."""
        return [self._current[name] for name in sorted(self._current)]

    def everything(self) -> Iterable[Served]:
        return self._all

    def replicas(self) -> list[Replica]:
        return [replica for served in self._all for replica in served.replicas]

    def by_pid(self, pid: int) -> Replica | None:
        return self._by_pid.get(pid)

    def wants(self, row: int, epoch: int) -> bool:
        """Return whether the worker should go on living."""
        replica = self.find(row, epoch)
        if replica is None:
            return self.spares.wants(row, epoch) or self.warm.wants(row, epoch)
        return replica.status in LIVE or replica.parks

    def waits_for_fork(self, now: float, limit: float) -> bool:
        """Return whether a worker was asked for more than ``limit`` seconds ago and has no process yet."""
        asked: list[Replica | Spare] = [*self.replicas(), *self.spares.all()]
        return any(one.pid is None and now - one.started > limit for one in asked)

    def worker(self, pid: int) -> Replica | Spare | Parked | None:
        return self._by_pid.get(pid) or self.spares.by_pid(pid) or self.warm.by_pid(pid)

    def pids(self) -> list[int]:
        """Return the pids of all model workers, spare and parked ones included."""
        workers: list[Replica | Spare | Parked] = [*self.replicas(), *self.spares.all(), *self.warm.all()]
        return [worker.pid for worker in workers if worker.pid is not None]

    @property
    def is_empty(self) -> bool:
        """Whether no worker is left."""
        return not self.replicas() and not len(self.spares) and not len(self.warm)

    def placement(self, name: str) -> Placement:
        """Return what HTTP workers may know of a model; if it is not served, that it is gone, or why it failed."""
        return placement_of(name, self._current.get(name))

    def find(self, row: int, epoch: int) -> Replica | None:
        return next((one for one in self.replicas() if one.row.index == row and one.epoch == epoch), None)

    @property
    def is_loading(self) -> bool:
        return any(one.status is not Status.READY for served in self._all for one in served.live())

    # Records without a decision.

    def touch(self, served: Served, now: float, wanted_until: float) -> None:
        served.used = max(served.used, now)
        served.wanted_until = max(served.wanted_until, wanted_until)

    def overdue(self, row: int, epoch: int, now: float) -> None:
        replica = self.find(row, epoch)
        if replica is not None and replica.overdue is None:
            replica.overdue = now

    def cut(self, row: int, epoch: int, now: float) -> None:
        worker: Replica | Spare | Parked | None = self.find(row, epoch) or self.spares.find(row, epoch)
        worker = worker or self.warm.find(row, epoch)
        if worker is not None:
            worker.cut = now
