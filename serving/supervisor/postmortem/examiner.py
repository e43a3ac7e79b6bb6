"""Examiner: what a dead worker's traces say about its end: its exit, its row of the scoreboard, what it has written."""

from __future__ import annotations

import datetime
import signal
from typing import NamedTuple

from serving.ipc.faults import Fault
from serving.ipc.scoreboard import Phase
from serving.postmortem.blackbox import Contents
from serving.postmortem.report import SHOWN, Reason, Report, Seen
from serving.postmortem.stacks import innermost
from serving.supervisor.fleet.deployment import Role, WorkerProcess
from serving.supervisor.processes import Exit
from serving.usercode.origin import FOREIGN

KILLS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)  # exit codes of a process that another one has ended
LOST = (Fault.STICKY, Fault.HARDWARE)
STACKS = 64 << 10  # characters


class Traces(NamedTuple):
    """What is left of a worker: its end, ``gone``, in words the ``cause``, and the ``fault`` of its device that it
    stands for; the reason why we have ended it, ``aborted``, "" where we have not; what the kernel's OOM killer has
    done; what it was working on, ``box``, and its ``stacks``.
    """

    gone: Exit
    cause: str
    fault: Fault = Fault.NONE
    aborted: str = ""
    device_is_out: bool = False
    oom_killed: bool = False
    oom_kills: int = 0
    box: Contents = Contents()
    stacks: str = ""


def is_loading(worker: WorkerProcess) -> bool:
    return worker.role is Role.SERVING and worker.row.phase < Phase.READY


def reason_of(worker: WorkerProcess, traces: Traces) -> Reason:
    """Return why a worker has ended that nobody wanted to."""
    if traces.fault in LOST or (traces.aborted and traces.device_is_out):
        return Reason.LOST_DEVICE
    if traces.oom_killed or worker.out_of_memory:
        return Reason.OUT_OF_MEMORY
    if is_loading(worker):
        return Reason.FAILED_LOAD
    if traces.aborted:
        return Reason.HANG
    return Reason.KILLED if traces.gone.code in KILLS else Reason.CRASH


def seen_in(ids: list[int], box: Contents) -> tuple[list[Seen], list[Seen]]:
    """Return the requests with these ids, and the other ones in the box, the latest first."""
    known = {one.id: one for one in reversed(box.requests)}
    running = [known.pop(id, Seen(id)) for id in ids]
    return running[:SHOWN], list(reversed(known.values()))[:SHOWN]


def examine(worker: WorkerProcess, traces: Traces, id: str) -> Report:
    """Return the report of a worker's end, as far as it is known at once."""
    gone, box, row = traces.gone, traces.box, worker.row
    model = None if worker.role is Role.SPARE else worker.model
    homes = (model.path, model.code) if model is not None else ()
    where = innermost(traces.stacks, homes, is_foreign)
    running, last = seen_in(row.running(), box)
    return Report(
        report=id,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        reason=reason_of(worker, traces),
        cause=f"{traces.aborted}: {traces.cause}" if traces.aborted else traces.cause,
        worker=gone.pid,
        row=row.index,
        epoch=worker.epoch,
        model=model.name if model is not None else "",
        path=model.path if model is not None else "",
        device=worker.device,
        phase="loading" if row.phase is Phase.EMPTY and worker.role is Role.SERVING else row.phase.name.lower(),
        signal=signal.Signals(-gone.code).name if -gone.code in set(signal.Signals) else None,
        exit_code=gone.code if gone.code >= 0 else None,
        error=worker.error if not traces.aborted else None,
        where=where or box.place,
        seen=None if where else box.seen,
        stacks=traces.stacks[:STACKS],
        running=running,
        last=last,
        batch=box.batch,
        memory=row.memory,
        peak=row.peak,
        device_memory=row.device_memory,
        oom_killed=traces.oom_killed,
        oom_kills=traces.oom_kills,
    )


def is_foreign(file: str) -> bool:
    return file.startswith(FOREIGN)
