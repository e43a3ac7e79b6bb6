"""Fleet: which replica of which model lives where, and what to do about it. Decides, never acts.

Every method takes what happened and the time, changes the books, and gives a list of actions for the supervisor to
carry out in order. A replica is one process life: a killed one is followed by a new one.

    STARTING → LOADING → WARMING → READY → RETIRING ─┐
        └─────────┴─────────┴────────┴──── DYING ────┴→ (exit: forgotten)
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from serving.messages import Address, Placement
from serving.model import Model
from serving.scoreboard import ROWS, Row, Scoreboard, State

KILL_GRACE = 0.05  # seconds past the latest deadline before the worker is ended; the 504s are out by then
ABORT_TIME = 1.0  # seconds that a worker has to write its stacks before SIGKILL
STALE = 1.0  # seconds without a beat after which a worker that owes an answer counts as stopped
MAX_FAILURES = 5  # starts in a row that never became ready
BACKOFF = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before the next start, by failures so far
CRASH_WINDOW, CRASH_LIMIT, CRASH_DELAY = 10.0, 10, 1.0  # more deaths than the limit in the window: wait before the next


class Status(enum.Enum):
    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DYING = "dying"
    RETIRING = "retiring"


LIVE = frozenset({Status.STARTING, Status.LOADING, Status.WARMING, Status.READY})
NEXT = {
    Status.STARTING: {Status.LOADING, Status.DYING, Status.RETIRING},
    Status.LOADING: {Status.WARMING, Status.DYING, Status.RETIRING},
    Status.WARMING: {Status.READY, Status.DYING, Status.RETIRING},
    Status.READY: {Status.DYING, Status.RETIRING},
    Status.RETIRING: {Status.DYING},
    Status.DYING: set(),
}


@dataclass(slots=True, eq=False)
class Replica:
    """One worker process. ``since`` is when its status began, ``started`` when it was asked for."""

    model: str
    row: Row
    epoch: int
    started: float
    since: float
    status: Status = Status.STARTING
    pid: int | None = None
    error: str | None = None
    overdue: float | None = None

    def become(self, status: Status, now: float) -> None:
        if status not in NEXT[self.status]:
            raise ValueError(f"a replica cannot go from {self.status.value} to {status.value}")
        self.status, self.since = status, now


@dataclass(slots=True)
class Served:
    """One model and its replicas. ``failures`` counts the starts in a row that never became ready."""

    model: Model
    queue_size: int
    replicas: list[Replica] = field(default_factory=list)
    failures: int = 0
    next_start: float = 0.0
    was_ready: bool = False
    last_ready: float = 0.0
    failed: str | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=CRASH_LIMIT))

    def live(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.status in LIVE]

    def ready(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.status is Status.READY]


@dataclass(frozen=True, slots=True)
class Start:
    replica: Replica


@dataclass(frozen=True, slots=True)
class Abort:
    """End the worker with its stacks in the log; ``reason`` is why."""

    replica: Replica
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    replica: Replica


@dataclass(frozen=True, slots=True)
class Publish:
    """HTTP workers need to hear of a change."""

    model: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The container cannot do its work and should end."""

    reason: str


Action = Start | Abort | Kill | Publish | GiveUp


class Fleet:
    def __init__(self, board: Scoreboard, load_timeout: float) -> None:
        self._board = board
        self._load_timeout = load_timeout
        self._rows: deque[int] = deque(range(ROWS))
        self._epoch = 0
        self._models: dict[str, Served] = {}
        self._by_pid: dict[int, Replica] = {}

    def add(self, model: Model) -> None:
        self._models[model.name] = Served(model, model.queue_size)

    def replicas(self) -> list[Replica]:
        return [replica for served in self._models.values() for replica in served.replicas]

    def by_pid(self, pid: int) -> Replica | None:
        return self._by_pid.get(pid)

    def knows(self, row: int, epoch: int) -> bool:
        return self._find(row, epoch) is not None

    def waits_for_fork(self, now: float, limit: float) -> bool:
        """Whether a worker was asked for more than ``limit`` seconds ago and has no process yet."""
        return any(one.pid is None and now - one.started > limit for one in self.replicas())

    def tick(self, now: float) -> list[Action]:
        """What time alone makes due: starts, kills."""
        actions: list[Action] = []
        for served in self._models.values():
            for replica in served.replicas:
                actions += self._watch(replica, now)
            missing = served.model.replicas - len(served.live())
            if missing > 0 and now >= served.next_start and served.failed is None:
                actions += [self._start(served, now) for _ in range(missing)]
        return actions

    def _start(self, served: Served, now: float) -> Start:
        self._epoch += 1
        row = self._board.row(self._rows.popleft())
        row.claim(self._epoch)
        replica = Replica(served.model.name, row, self._epoch, now, now)
        served.replicas.append(replica)
        return Start(replica)

    def _watch(self, replica: Replica, now: float) -> list[Action]:
        if replica.status is Status.DYING:
            return [Kill(replica)] if now > replica.since + ABORT_TIME else []
        if replica.pid is None:
            return []
        if replica.status in (Status.READY, Status.RETIRING):
            busy_until = replica.row.busy_until
            if busy_until and now > busy_until + KILL_GRACE:
                return self.end(replica, "its handler ran past the deadline", now)
            if self._is_stopped(replica, busy_until, now):
                return self.end(replica, "it stopped answering", now)
        elif now > replica.started + self._load_timeout:
            replica.error = f"loading took more than {self._load_timeout:g} s"
            return self.end(replica, replica.error, now)
        return []

    def _is_stopped(self, replica: Replica, busy_until: float, now: float) -> bool:
        """A request went unanswered and the worker's I/O thread has not run since, though no user code holds it."""
        if replica.overdue is None or busy_until:
            return False
        if replica.row.beat > replica.overdue:
            replica.overdue = None
            return False
        return now > replica.overdue + STALE

    def end(self, replica: Replica, reason: str, now: float) -> list[Action]:
        """End a worker at once. Its replacement starts without waiting for its last breath."""
        if replica.status is Status.DYING:
            return []
        replica.become(Status.DYING, now)
        served = self._models[replica.model]
        return [Abort(replica, reason), Publish(replica.model), *self._replace(served, now)]

    def _replace(self, served: Served, now: float) -> list[Action]:
        if served.was_ready and served.failures == 0 and self._calm(served, now):
            return [self._start(served, now)] if len(served.live()) < served.model.replicas else []
        return []

    def _calm(self, served: Served, now: float) -> bool:
        return len(served.deaths) < CRASH_LIMIT or served.deaths[0] < now - CRASH_WINDOW

    def forked(self, row: int, epoch: int, pid: int) -> None:
        replica = self._find(row, epoch)
        if replica is not None:
            replica.pid = pid
            self._by_pid[pid] = replica

    def phase(self, row: int, epoch: int, phase: Status, queue_size: int, now: float) -> list[Action]:
        """A worker says that it has come one step further."""
        replica = self._find(row, epoch)
        if replica is None or replica.status not in LIVE:
            return []
        replica.become(phase, now)
        if phase is not Status.READY:
            return []
        served = self._models[replica.model]
        served.was_ready, served.failures, served.queue_size = True, 0, queue_size
        served.last_ready = now
        return [Publish(replica.model)]

    def load_failed(self, row: int, epoch: int, error: str, permanent: bool) -> list[Action]:
        """A worker says why it cannot serve; it ends by itself."""
        replica = self._find(row, epoch)
        if replica is None:
            return []
        replica.error = error
        return [GiveUp(error)] if permanent and not self._models[replica.model].was_ready else []

    def overdue(self, row: int, epoch: int, now: float) -> None:
        replica = self._find(row, epoch)
        if replica is not None and replica.overdue is None:
            replica.overdue = now

    def exited(self, replica: Replica, cause: str, now: float) -> list[Action]:
        """A worker's process is gone; ``cause`` is a signal or an exit code, in words."""
        served = self._models[replica.model]
        served.replicas.remove(replica)
        if replica.pid is not None:
            self._by_pid.pop(replica.pid, None)
        self._rows.append(replica.row.index)
        actions: list[Action] = [Publish(replica.model)]
        if replica.status is Status.RETIRING:
            return actions
        if replica.row.phase < replica.row.phase.READY:
            self._count_failure(served, replica.error or cause, now)
        else:
            served.deaths.append(now)
            if not self._calm(served, now):
                served.next_start = now + CRASH_DELAY
        return actions + self._replace(served, now)

    def _count_failure(self, served: Served, reason: str, now: float) -> None:
        served.failures += 1
        if served.failures >= MAX_FAILURES:
            served.failed = f"failed to start {served.failures} times in a row; the last time: {reason}"
        else:
            served.next_start = now + BACKOFF[served.failures]

    def retire(self, now: float) -> list[Replica]:
        """All workers should finish and go; no new ones start. Gives those that can be told."""
        told = []
        for served in self._models.values():
            served.failed = served.failed or "the server is stopping"
            for replica in served.live():
                replica.become(Status.RETIRING, now)
                told.append(replica)
        return told

    def placement(self, name: str) -> Placement | None:
        """What HTTP workers may know of a model; None if there is no such model."""
        served = self._models.get(name)
        if served is None:
            return None
        addresses = [Address(replica.row.index, replica.epoch, "") for replica in served.ready()]
        loading = not served.was_ready
        return Placement(name, addresses, served.model.timeout, served.queue_size, loading, served.failed)

    def state(self, now: float) -> tuple[State, str]:
        """The server's state and, where it is not READY, why."""
        order = (State.FAILED, State.STARTING, State.LOADING, State.WARMING, State.DEGRADED, State.READY)
        states = [self._state_of(served, now) for served in self._models.values()]
        return min(states, key=lambda pair: order.index(pair[0]))

    def _state_of(self, served: Served, now: float) -> tuple[State, str]:
        ready = len(served.ready())
        if ready:
            served.last_ready = now
        if ready >= served.model.replicas:
            return State.READY, ""
        if served.failed is not None and not ready:
            return State.FAILED, served.failed
        if served.was_ready:
            return State.DEGRADED, f"{ready} of {served.model.replicas} replicas are ready"
        statuses = {replica.status for replica in served.live()}
        if Status.WARMING in statuses:
            return State.WARMING, ""
        if Status.LOADING in statuses:
            return State.LOADING, ""
        error = next((replica.error for replica in served.replicas if replica.error), "")
        return State.STARTING, error

    def counts(self) -> tuple[int, int, float]:
        """Replicas ready, replicas wanted, and when one was last ready."""
        served = self._models.values()
        return (
            sum(len(one.ready()) for one in served),
            sum(one.model.replicas for one in served),
            max((one.last_ready for one in served), default=0.0),
        )

    def _find(self, row: int, epoch: int) -> Replica | None:
        return next((one for one in self.replicas() if one.row.index == row and one.epoch == epoch), None)
