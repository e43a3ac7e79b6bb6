"""Exits: what the end of a worker's process says: why it ended, and whether somebody wanted that."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any, NamedTuple

from serving.ipc.faults import Fault, fault_of_exit
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.postmortem.writer import ReportWriter
from serving.supervisor.executor import Executor
from serving.supervisor.fleet.deployment import Role, Status, WorkerProcess
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.processes import Exit
from serving.system import cgroup, log

RETIRED = "retired"  # the reason of an end that was wanted
LAST_WORDS, LOOKS = 0.05, 20  # seconds between looks for the reason that a worker gave for its end; how many looks


class End(NamedTuple):
    """The end of a worker's process, ``gone``: its ``cause`` in words, the ``fault`` of its device, whether the kernel
    has ``oom_killed`` it, and whether it ``is_wanted``.
    """

    gone: Exit
    cause: str
    fault: Fault = Fault.NONE
    oom_killed: bool = False
    is_wanted: bool = False


class Exits:
    """Tells the fleet of the ends of workers, and has what it decides carried out. ``reports`` takes one for
    each end that nobody wanted.
    """

    def __init__(
        self, fleet: Fleet, executor: Executor, runtime: Runtime, board: Scoreboard, reports: ReportWriter
    ) -> None:
        self._fleet = fleet
        self._executor = executor
        self._runtime = runtime
        self._board = board
        self._reports = reports
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
        cause = f"{gone}: {meaning}" if meaning else str(gone)
        # An orderly end after a reported error has been logged already.
        expected = replica.status in (Status.RETIRING, Status.PARKING) or (gone.code == 0 and replica.error is not None)
        level = log.info if expected else log.error
        # A SIGKILL that is not ours is most likely the OOM killer's; some containers hide its count.
        short = gone.code == -signal.SIGKILL and not self._executor.has_killed(gone.pid)
        oom_killed = self._count_oom_kill() if short else None
        end = End(gone, cause, fault, bool(oom_killed), self._is_wanted(replica, gone))
        stacks, id = self._examine(replica, end, model=replica.name, worker=gone.pid)
        self._board.bury(replica.row)
        who: dict[str, Any] = {"model": replica.name, "worker": gone.pid, "cause": cause, "device": replica.device}
        level("a worker ended", **who, oom_killed=oom_killed, stacks=stacks or None, report=id)
        self._executor.forget(gone.pid)
        if id is not None:  # those who wait for the model are told of it
            cause = f"{cause} (report {id})"
            replica.error = f"{replica.error} (report {id})" if replica.error else None
        self._executor.act(self._fleet.exited(replica, cause, time.monotonic(), short, fault))

    def _is_wanted(self, replica: WorkerProcess, gone: Exit) -> bool:
        """Return whether a replica was told to end and did, or was killed for no fault of its own."""
        if self._executor.has_killed(gone.pid):
            return not self._executor.why_aborted(gone.pid)
        return gone.code == 0 and replica.status in (Status.RETIRING, Status.PARKING)

    def _examine(self, dead: WorkerProcess, end: End, **fields: object) -> tuple[str, str | None]:
        """Take what a dead worker has left: its stacks, and the id of the report that is made of it all, if any. Lines
        that it has begun to print are logged with ``fields``.
        """
        # Not before the first end: the start does without them.
        from serving.postmortem import blackbox, bodyring
        from serving.supervisor.postmortem.examiner import Traces, examine

        row, epoch, devices = dead.row.index, dead.epoch, self._fleet.state.devices
        box = blackbox.read(self._runtime.box_path(row, epoch), time.monotonic())
        kept = None
        if dead.role is Role.SERVING and not end.is_wanted:
            kept = bodyring.left_by(self._runtime.bodies_path(row, epoch), dead.row.running(), dead.model)
        stacks = self._runtime.forget_worker(row, epoch, **fields)
        if end.is_wanted:
            self._executor.count_exit(dead, RETIRED)
            return stacks, None
        is_out = dead.device in devices and dead.device not in devices.usable
        why = self._executor.why_aborted(end.gone.pid)
        kills = self._oom_kills
        traces = Traces(end.gone, end.cause, end.fault, why, is_out, end.oom_killed, kills, box, stacks)
        id = self._runtime.report_id(epoch)
        try:
            report = examine(dead, traces, id)
            self._executor.count_exit(dead, report.reason)
            self._reports.submit(report, kept)
        except Exception as exc:  # which must not cost the worker its replacement
            log.error("a report could not be made", exc=exc)
            return stacks, None
        return stacks, id

    def _count_oom_kill(self) -> bool:
        """Take the OOM killer's count; returns whether it has risen."""
        before, self._oom_kills = self._oom_kills, cgroup.oom_kills()
        return self._oom_kills > before

    def _on_waiting_exit(self, worker: WorkerProcess, gone: Exit) -> None:
        is_spare = worker.role is Role.SPARE
        expected = self._executor.has_killed(gone.pid) or not (is_spare or worker.is_wanted)
        level = log.debug if expected else log.warning
        stacks, id = self._examine(worker, End(gone, str(gone), is_wanted=expected))
        self._board.bury(worker.row)
        name = "a spare" if is_spare else "a parked worker"
        who: dict[str, Any] = {"worker": gone.pid, "device": worker.device, "cause": str(gone)}
        level(f"{name} ended", **who, stacks=stacks or None, report=id)
        self._executor.forget(gone.pid)
        self._fleet.waiting_exited(worker, time.monotonic())
