"""Fleet: which replica of which model lives where, and what to do about it. Decides, never acts.

Every method takes what happened and the time, changes the books, and gives a list of actions for the supervisor to
carry out in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from serving.errors import ModelFailed, OutOfMemory, ServingError
from serving.messages import Paths, Placement, Problem
from serving.model import Model
from serving.scoreboard import ROWS, Scoreboard
from serving.supervisor.admission import Admission, estimate
from serving.supervisor.cache import Admit, Decision, Evict
from serving.supervisor.describe import placement_of
from serving.supervisor.diskcache import Cost
from serving.supervisor.replica import (
    CRASH_LIMIT,
    LIVE,
    Abort,
    Action,
    Evicted,
    GiveUp,
    Gone,
    Kill,
    Learned,
    Owner,
    Publish,
    Replica,
    Retire,
    Served,
    Settled,
    Stage,
    Start,
    Status,
)

KILL_GRACE = 0.05  # seconds past the latest deadline before the worker is ended; the 504s are out by then
ABORT_TIME = 1.0  # seconds that a worker has to write its stacks before SIGKILL
CUT = 1.0  # seconds that a worker may live without its control connection
STALE = 1.0  # seconds without a beat after which a worker that owes an answer counts as stopped
MAX_FAILURES = 5  # starts in a row that never became ready
BACKOFF = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before the next start, by failures so far
LOOK = 0.5  # seconds between looks at what models have grown to
AGAIN = 0.001  # seconds between decisions about those who wait, for each of them: many do not take all our time
CRASH_WINDOW, CRASH_DELAY = 10.0, 1.0  # more deaths than the limit in the window: wait before the next


class Fleet:
    """``admission`` holds the memory budget; a server of one model has none and starts it at once."""

    def __init__(self, board: Scoreboard, load_timeout: float, admission: Admission | None = None) -> None:
        self._board = board
        self._load_timeout = load_timeout
        self._admission = admission or Admission()
        self._rows: deque[int] = deque(range(ROWS))
        self._epoch = 0
        self._key = 0
        self._next_look = 0.0
        self._next_admit = 0.0
        self._current: dict[str, Served] = {}
        self._all: list[Served] = []
        self._by_pid: dict[int, Replica] = {}

    # What there is.

    def get(self, name: str) -> Served | None:
        return self._current.get(name)

    def served(self) -> list[Served]:
        """The current state of every model, by name; none that is being replaced or tried."""
        return [self._current[name] for name in sorted(self._current)]

    def everything(self) -> Iterable[Served]:
        return self._all

    def replicas(self) -> list[Replica]:
        return [replica for served in self._all for replica in served.replicas]

    def by_pid(self, pid: int) -> Replica | None:
        return self._by_pid.get(pid)

    def wants(self, row: int, epoch: int) -> bool:
        """Whether that worker should live on."""
        replica = self.find(row, epoch)
        return replica is not None and replica.status in LIVE

    def waits_for_fork(self, now: float, limit: float) -> bool:
        """Whether a worker was asked for more than ``limit`` seconds ago and has no process yet."""
        return any(one.pid is None and now - one.started > limit for one in self.replicas())

    # Models come and go.

    def add(
        self,
        model: Model,
        now: float = 0.0,
        owner: Owner = Owner.START,
        wanted_until: float = 0.0,
        cost: Cost | None = None,
    ) -> Served:
        """A model to be served as soon as there is room. There is none of its name, or that one is to be replaced."""
        self._key += 1
        known = cost or estimate(model)
        served = Served(self._key, model, model.queue_size, owner, known, now, wanted_until=wanted_until)
        served.pinned = model.pin
        if owner is Owner.START:
            served.stage = Stage.SERVING
        served.predecessor = self._current.get(model.name)
        if served.predecessor is None:
            self._current[model.name] = served
        self._all.append(served)
        return served

    def touch(self, served: Served, now: float, wanted_until: float) -> None:
        served.used = max(served.used, now)
        served.wanted_until = max(served.wanted_until, wanted_until)

    def admit(self, now: float) -> list[Action]:
        """Start what there is room for, in the order of arrival; make room where that is possible."""
        self._next_admit = now + AGAIN * sum(one.stage is Stage.WAITING for one in self._all)
        actions: list[Action] = []
        for served, decision in self._admission.decisions(self._all, now):
            actions += self._conclude(served, decision, now)
        return actions

    def _conclude(self, served: Served, decision: Decision, now: float) -> list[Action]:
        missing = served.model.replicas - len(self._rows)
        if isinstance(decision, Admit) and missing > 0:
            why = f"model {served.name} needs {missing} more processes than the {ROWS} that there may be"
            return self._give_up_load(served, OutOfMemory(why), now)
        if isinstance(decision, Admit):
            served.stage, served.devices = Stage.SERVING, decision.devices
            return self._start_missing(served, now)
        if isinstance(decision, Evict):
            return self._evict(decision.keys, f"room for {served.name}", now)
        why = f"there is no room for model {served.name}: {decision.why}"
        return self._give_up_load(served, OutOfMemory(why), now)

    def _evict(self, keys: Iterable[int], reason: str, now: float) -> list[Action]:
        victims = {served.key: served for served in self._all}
        actions: list[Action] = []
        for key in keys:
            actions += [Evicted(victims[key], reason), *self.leave(victims[key], now)]
        return actions

    def leave(self, served: Served, now: float, problem: Problem | None = None) -> list[Action]:
        """Finish what it has, then go. ``problem`` is told to those who wait for it."""
        served.stage, served.problem = Stage.LEAVING, problem
        actions: list[Action] = [Publish(served.name)]
        for replica in served.live():
            replica.become(Status.RETIRING, now)
            actions.append(Retire(replica))
        for successor in [one for one in self._all if one.predecessor is served and one.stage is not Stage.LEAVING]:
            actions += self.leave(successor, now)
        return actions if served.replicas else [*actions, *self._forget(served)]

    def _forget(self, served: Served) -> list[Action]:
        self._all.remove(served)
        self._next_admit = 0.0
        if self._current.get(served.name) is served:
            del self._current[served.name]
        return [Gone(served)]

    def _give_up_load(self, served: Served, error: ServingError, now: float) -> list[Action]:
        problem = Problem.of(error)
        if served.predecessor is not None:
            served.predecessor.reload_error = problem.message
        return [Settled(served, problem), *self.leave(served, now, problem)]

    def _settle_load(self, served: Served, now: float) -> list[Action]:
        actions: list[Action] = [Settled(served, None)]
        old, served.predecessor = served.predecessor, None
        if old is not None and old.stage is not Stage.LEAVING:
            self._current[served.name] = served
            served.owner = old.owner
            # What a client has said holds until the model itself says something new.
            served.pinned = served.pinned if served.model.pin != old.model.pin else old.pinned
            actions += self.leave(old, now)
        return actions

    # What time brings.

    def tick(self, now: float) -> list[Action]:
        """What time alone makes due: starts, kills, room for those who wait."""
        actions: list[Action] = []
        for served in list(self._all):
            for replica in list(served.replicas):
                actions += self._watch(replica, now)
            actions += self._start_missing(served, now)
        if now > self._next_look:
            self._next_look = now + LOOK
            actions += self._evict(self._admission.excess(self._all, now), "models have grown beyond the budget", now)
        # Rows change without a word; what is heard of is acted on at once.
        return actions + (self.admit(now) if now > self._next_admit else [])

    def _start_missing(self, served: Served, now: float) -> list[Action]:
        missing = served.model.replicas - len(served.live())
        if missing <= 0 or now < served.next_start or served.failed is not None or served.stage is not Stage.SERVING:
            return []
        return [self._start(served, now) for _ in range(min(missing, len(self._rows)))]

    def _start(self, served: Served, now: float) -> Start:
        self._epoch += 1
        row = self._board.row(self._rows.popleft())
        row.claim(self._epoch)
        taken = [replica.device for replica in served.live()]
        free = [name for name in served.devices if served.devices.count(name) > taken.count(name)]
        device = (free or served.devices or (served.model.device,))[0]
        replica = Replica(served, device, row, self._epoch, now, now)
        served.replicas.append(replica)
        return Start(replica)

    def _watch(self, replica: Replica, now: float) -> list[Action]:
        if replica.status is Status.DYING:
            return [Kill(replica)] if now > replica.since + ABORT_TIME else []
        if replica.pid is None:
            return []
        if replica.cut is not None and now > replica.cut + CUT and replica.status is not Status.RETIRING:
            return self.end(replica, "it lives without its connection to the supervisor", now)
        if replica.status in (Status.READY, Status.RETIRING):
            busy_until = replica.row.busy_until
            if busy_until and now > busy_until + KILL_GRACE:
                return self.end(replica, "its handler ran past the deadline", now)
            if self._is_stopped(replica, busy_until, now):
                return self.end(replica, "it stopped answering", now)
            if replica.status is Status.RETIRING and replica.overstays(now):
                return self.end(replica, "it was told to end and did not", now)
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
        # The I/O thread may not have had its turn yet after a call that kept everybody out.
        return now > max(replica.overdue, replica.row.last_used) + STALE

    def end(self, replica: Replica, reason: str, now: float) -> list[Action]:
        """End a worker at once. Its replacement starts without waiting for its last breath."""
        if replica.status is Status.DYING:
            return []
        replica.become(Status.DYING, now)
        replica.row.pid = 0
        return [Abort(replica, reason), Publish(replica.name), *self._replace(replica.served, now)]

    def _replace(self, served: Served, now: float) -> list[Action]:
        if served.was_ready and served.failures == 0 and self._calm(served, now):
            return self._start_missing(served, now)[:1]
        return []

    def _calm(self, served: Served, now: float) -> bool:
        return len(served.deaths) < CRASH_LIMIT or served.deaths[0] < now - CRASH_WINDOW

    # What workers say.

    def forked(self, row: int, epoch: int, pid: int) -> None:
        replica = self.find(row, epoch)
        if replica is not None:
            replica.pid = replica.row.pid = pid
            self._by_pid[pid] = replica

    def phase(
        self,
        row: int,
        epoch: int,
        phase: Status,
        now: float,
        queue_size: int = 0,
        device: str = "",
        batch_size: int = 0,
        paths: Paths = Paths(),  # noqa: B008 it is frozen
    ) -> list[Action]:
        """A worker says that it has come one step further; when ready, how much may wait and where it runs."""
        replica = self.find(row, epoch)
        if replica is None or replica.status not in LIVE:
            return []
        replica.become(phase, now)
        if phase is not Status.READY:
            return []
        served = replica.served
        replica.device = device or replica.device
        first, served.was_ready, served.failures, served.queue_size = not served.was_ready, True, 0, queue_size
        served.last_ready = served.used = now
        self._next_admit = 0.0
        served.batch_size, served.paths = batch_size, paths
        actions: list[Action] = []
        measured = Cost(replica.row.memory, replica.row.peak, replica.row.device_memory)
        if abs(measured.peak - served.cost.peak) > served.cost.peak // 20 or measured.host > served.cost.host:
            served.cost = measured
            actions.append(Learned(served))
        actions += self._settle_load(served, now) if first else []
        return [*actions, Publish(served.name)]

    def load_failed(
        self, row: int, epoch: int, error: str, permanent: bool, out_of_memory: bool = False
    ) -> list[Action]:
        """A worker says why it cannot serve; it ends by itself."""
        replica = self.find(row, epoch)
        if replica is None:
            return []
        replica.error, replica.out_of_memory = error, out_of_memory
        return [GiveUp(error)] if permanent and not replica.served.was_ready and self._is_single(replica) else []

    def _is_single(self, replica: Replica) -> bool:
        return replica.served.owner is Owner.START

    def overdue(self, row: int, epoch: int, now: float) -> None:
        replica = self.find(row, epoch)
        if replica is not None and replica.overdue is None:
            replica.overdue = now

    def cut(self, row: int, epoch: int, now: float) -> None:
        replica = self.find(row, epoch)
        if replica is not None:
            replica.cut = now

    def exited(self, replica: Replica, cause: str, now: float, out_of_memory: bool = False) -> list[Action]:
        """A worker's process is gone; ``cause`` is a signal or an exit code, in words."""
        served = replica.served
        served.replicas.remove(replica)
        replica.row.pid = 0
        if replica.pid is not None:
            self._by_pid.pop(replica.pid, None)
        self._rows.append(replica.row.index)
        self._next_admit = 0.0
        if served.stage is Stage.LEAVING:
            return self._forget(served) if not served.replicas else []
        actions: list[Action] = [Publish(served.name)]
        if replica.status is Status.RETIRING:
            return actions
        if replica.row.phase >= replica.row.phase.READY:
            served.deaths.append(now)
            if not self._calm(served, now):
                served.next_start = now + CRASH_DELAY
        elif served.owner is Owner.START or served.was_ready:
            self._count_failure(served, replica.error or cause, now)
        else:
            short = out_of_memory or replica.out_of_memory
            return self._load_ended(served, replica.error or cause, short, now)
        if served.owner is Owner.STORE and served.failures >= MAX_FAILURES and not served.replicas:
            # A later request may find it mended.
            return self._give_up_load(served, ModelFailed(f"model {served.name} {served.failed}"), now)
        return actions + self._replace(served, now)

    def lost(self, replica: Replica, cause: str, now: float) -> list[Action]:
        """A worker that never was, for no fault of the model's: it is asked for again."""
        if replica.served.owner is Owner.START or replica.status is not Status.STARTING:
            return self.exited(replica, cause, now)
        replica.served.replicas.remove(replica)
        self._rows.append(replica.row.index)
        return self._start_missing(replica.served, now)

    def _load_ended(self, served: Served, reason: str, short: bool, now: float) -> list[Action]:
        """A first load failed. For want of memory it is tried once more, with one model less around it."""
        if not short:
            return self._give_up_load(served, ModelFailed(f"model {served.name} failed to load: {reason}"), now)
        victim = self._admission.oldest(self._all, now)
        if served.made_room or victim is None or served.live():
            why = f"model {served.name} ran out of memory while it was loaded: {reason}"
            return self._give_up_load(served, OutOfMemory(why), now)
        served.made_room, served.after, served.stage = True, victim, Stage.WAITING
        return self._evict((victim,), f"{served.name} ran out of memory", now)

    def _count_failure(self, served: Served, reason: str, now: float) -> None:
        served.failures += 1
        if served.failures >= MAX_FAILURES:
            served.failed = f"failed to start {served.failures} times in a row; the last time: {reason}"
        else:
            served.next_start = now + BACKOFF[served.failures]

    def retire(self, now: float) -> list[Replica]:
        """All workers should finish and go; no new ones start. Gives those that can be told."""
        told = []
        for served in self._all:
            served.failed = served.failed or "the server is stopping"
            for replica in served.live():
                replica.become(Status.RETIRING, now)
                told.append(replica)
        return told

    # What others may know.

    def placement(self, name: str) -> Placement:
        """What HTTP workers may know of a model; where it is not served, that it is gone, or why it failed."""
        return placement_of(name, self._current.get(name))

    def find(self, row: int, epoch: int) -> Replica | None:
        return next((one for one in self.replicas() if one.row.index == row and one.epoch == epoch), None)
