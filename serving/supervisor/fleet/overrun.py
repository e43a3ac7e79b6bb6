"""Overrun: the reasons to end a worker whose call, load or retirement takes too long, that has stopped, or that has
lost its control connection. Judges by the worker's record and its scoreboard row.
"""

from __future__ import annotations

from serving.supervisor.fleet.deployment import Status, WorkerProcess

KILL_GRACE = 0.05  # seconds past a call's time before the worker is ended; the 504s are sent by then
CUT = 1.0  # seconds that a worker may live without its control connection
STALE = 1.0  # seconds without a beat after which a worker with an overdue request counts as stopped
ENDING = (Status.RETIRING, Status.PARKING)


def overrun(replica: WorkerProcess, load_timeout: float, now: float) -> str | None:
    """Return the reason to end a worker that has a process and is not dying yet; None if it may live on."""
    is_ending = replica.status in ENDING
    if replica.cut is not None and now > replica.cut + CUT and not is_ending:
        return "it lives without its connection to the supervisor"
    if replica.status is not Status.READY and not is_ending:
        late = now > replica.started + load_timeout
        return f"loading took more than {load_timeout:g} s" if late else None
    busy_until = replica.row.busy_until
    if busy_until and now > busy_until + KILL_GRACE:
        return "a call of its handler took too long"
    if is_stopped(replica, busy_until, now):
        return "it stopped answering"
    if is_ending and replica.overstays(now):
        return "it was told to end and did not"
    return None


def is_stopped(replica: WorkerProcess, busy_until: float, now: float) -> bool:
    """Return whether a request went unanswered and the worker's I/O thread has not run since, although no user code
    runs.
    """
    if replica.overdue is None or busy_until or has_answered(replica):
        return False
    # After a call that held the GIL the I/O thread may not have run yet.
    return now > max(replica.overdue, replica.row.last_used) + STALE


def has_answered(replica: WorkerProcess) -> bool:
    """Return whether the worker's I/O thread has run since a request of it went unanswered."""
    return replica.overdue is not None and replica.row.beat > replica.overdue
