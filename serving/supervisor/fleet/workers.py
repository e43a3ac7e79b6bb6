"""Workers: the one register of all worker processes, whatever their role. Records only, decides nothing."""

from __future__ import annotations

from collections import deque

from serving.ipc.scoreboard import ROWS, Row, Scoreboard
from serving.supervisor.fleet.deployment import Deployment, Role, WorkerProcess


class Rows:
    """The free rows of the scoreboard, each lent to one process at a time. A returned row is lent again last, so that
    the state of a dead worker stays readable for a while.
    """

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._free = deque(range(ROWS))
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of free rows."""
        return len(self._free)

    def claim(self) -> tuple[Row, int]:
        """Return a row, and the epoch that distinguishes its new owner from all earlier ones."""
        self._epoch += 1
        row = self._board.row(self._free.popleft())
        row.claim(self._epoch)
        return row, self._epoch

    def give_back(self, row: Row) -> None:
        row.pid = 0
        self._free.append(row.index)


class Workers:
    """All worker processes. They use ``rows`` of the scoreboard."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._by_role: dict[Role, dict[int, WorkerProcess]] = {role: {} for role in Role}
        self._by_pid: dict[int, WorkerProcess] = {}

    # Lookups.

    def all(self) -> list[WorkerProcess]:
        return [worker for workers in self._by_role.values() for worker in workers.values()]

    def of(self, role: Role) -> list[WorkerProcess]:
        """Return the workers with a role, in the order in which they took it."""
        return list(self._by_role[role].values())

    def count(self, role: Role) -> int:
        return len(self._by_role[role])

    def find(self, row: int, epoch: int, role: Role | None = None) -> WorkerProcess | None:
        """Return the worker of a row and epoch, if it lives and has the ``role``, where one is given."""
        for workers in self._by_role.values() if role is None else [self._by_role[role]]:
            worker = workers.get(epoch)
            if worker is not None:
                return worker if worker.row.index == row else None
        return None

    def by_pid(self, pid: int) -> WorkerProcess | None:
        return self._by_pid.get(pid)

    def wants(self, row: int, epoch: int) -> bool:
        """Return whether the worker should go on living."""
        worker = self.find(row, epoch)
        return worker is not None and worker.is_wanted

    def waits_for_fork(self, now: float, limit: float) -> bool:
        """Return whether a worker was asked for more than ``limit`` seconds ago and has no process yet."""
        return any(one.pid is None and now - one.started > limit for one in self.all())

    def pids(self) -> list[int]:
        """Return the pids of all workers, spare and parked ones included."""
        return [worker.pid for worker in self.all() if worker.pid is not None]

    @property
    def is_empty(self) -> bool:
        return not any(self._by_role.values())

    # A worker's life.

    def start(self, role: Role, device: str, now: float, deployment: Deployment | None = None) -> WorkerProcess:
        """Register a worker that is yet to be forked; ``deployment`` is what it is to serve, if anything."""
        row, epoch = self.rows.claim()
        worker = self._by_role[role][epoch] = WorkerProcess(role, device, row, epoch, now, deployment)
        if deployment is not None:
            deployment.replicas.append(worker)
        return worker

    def forked(self, row: int, epoch: int, pid: int) -> WorkerProcess | None:
        """Record the process of a worker; returns the worker, None where it is not known any more."""
        worker = self.find(row, epoch)
        if worker is not None:
            worker.pid = worker.row.pid = pid
            self._by_pid[pid] = worker
        return worker

    def take_over(self, worker: WorkerProcess, deployment: Deployment, now: float) -> None:
        """Make a spare or a parked worker a replica."""
        role = worker.role
        worker.take_over(deployment, now)
        self._refile(worker, role)
        deployment.replicas.append(worker)

    def park(self, worker: WorkerProcess, now: float) -> None:
        """Make a replica a parked worker."""
        role, deployment = worker.role, worker.deployment
        worker.park(now)
        self._refile(worker, role)
        deployment.replicas.remove(worker)

    def _refile(self, worker: WorkerProcess, before: Role) -> None:
        del self._by_role[before][worker.epoch]
        self._by_role[worker.role][worker.epoch] = worker

    def ended(self, worker: WorkerProcess, now: float) -> None:
        """Forget a worker whose process is gone, or was never made."""
        del self._by_role[worker.role][worker.epoch]
        if worker.role is Role.SERVING:
            worker.deployment.lose(worker, now)
        if worker.pid is not None and self._by_pid.get(worker.pid) is worker:
            del self._by_pid[worker.pid]
        self.rows.give_back(worker.row)

    # Records without a decision.

    def overdue(self, row: int, epoch: int, now: float) -> None:
        """Record that a request of a replica was not answered in its time."""
        replica = self.find(row, epoch, Role.SERVING)
        if replica is not None and replica.overdue is None:
            replica.overdue = now

    def cut(self, row: int, epoch: int, now: float) -> None:
        """Record the end of a worker's control connection."""
        worker = self.find(row, epoch)
        if worker is not None:
            worker.cut = now
