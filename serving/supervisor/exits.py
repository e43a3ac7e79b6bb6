"""Exits: what the end of a worker's process says: why it ended, and whether somebody wanted that."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

from serving.ipc.faults import fault_of_exit
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.supervisor.executor import Executor
from serving.supervisor.fleet.deployment import Role, Status, WorkerProcess
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.processes import Exit
from serving.system import cgroup, log

LAST_WORDS, LOOKS = 0.05, 20  # seconds between looks for the reason that a worker gave for its end; how many looks


class Exits:
    """Reports the ends of workers to the fleet, and has what it decides carried out."""

    def __init__(self, fleet: Fleet, executor: Executor, runtime: Runtime, board: Scoreboard) -> None:
        self._fleet = fleet
        self._executor = executor
        self._runtime = runtime
        self._board = board
        self._oom_kills = cgroup.oom_kills()

    def on_exit(self, worker: WorkerProcess, gone: Exit, looks: int = LOOKS) -> None:
        """Handle the end of a worker's process; up to ``looks`` more looks wait for the reason of an orderly end."""
        if worker.role is not Role.SERVING:
            self._on_waiting_exit(worker, gone)
        elif gone.code == 0 and worker.owes_a_reason and looks:
            # A worker ends so after it has reported why it cannot serve; the report may still be in its socket.
            asyncio.get_running_loop().call_later(LAST_WORDS, self.on_exit, worker, gone, looks - 1)
        else:
            self._on_replica_exit(worker, gone)

    def _on_replica_exit(self, replica: WorkerProcess, gone: Exit) -> None:
        fault, meaning = fault_of_exit(gone.code)
        stacks = self._runtime.forget_worker(replica.row.index, replica.epoch, model=replica.name, worker=gone.pid)
        self._board.bury(replica.row)
        cause = f"{gone}: {meaning}" if meaning else str(gone)
        # An orderly end after a reported error has been logged already.
        expected = replica.status in (Status.RETIRING, Status.PARKING) or (gone.code == 0 and replica.error is not None)
        level = log.info if expected else log.error
        # A SIGKILL that is not ours is most likely the OOM killer's; some containers hide its count.
        short = gone.code == -signal.SIGKILL and not self._executor.has_killed(gone.pid)
        who: dict[str, Any] = {"model": replica.name, "worker": gone.pid, "cause": cause, "device": replica.device}
        level("a worker ended", **who, oom_killed=self._count_oom_kill() if short else None, stacks=stacks or None)
        self._executor.forget(gone.pid)
        self._executor.act(self._fleet.exited(replica, cause, time.monotonic(), short, fault))

    def _count_oom_kill(self) -> bool:
        """Take the OOM killer's count; returns whether it has risen."""
        before, self._oom_kills = self._oom_kills, cgroup.oom_kills()
        return self._oom_kills > before

    def _on_waiting_exit(self, worker: WorkerProcess, gone: Exit) -> None:
        stacks = self._runtime.forget_worker(worker.row.index, worker.epoch)
        self._board.bury(worker.row)
        is_spare = worker.role is Role.SPARE
        expected = self._executor.has_killed(gone.pid) or not (is_spare or worker.is_wanted)
        level = log.debug if expected else log.warning
        name = "a spare" if is_spare else "a parked worker"
        level(f"{name} ended", worker=gone.pid, device=worker.device, cause=str(gone), stacks=stacks or None)
        self._executor.forget(gone.pid)
        self._fleet.waiting_exited(worker, time.monotonic())
