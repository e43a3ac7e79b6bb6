"""Fleet: decides which replica of which model lives where, and what to do about it. Never acts.

Every method takes an event and the time, changes the books, and returns a list of actions for the supervisor to carry
out in order.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from serving.errors import ModelFailed, OutOfMemory
from serving.ipc.faults import Fault
from serving.ipc.messages import Paths
from serving.ipc.scoreboard import ROWS, Scoreboard
from serving.model.model import Model
from serving.supervisor.fleet.admission import Admission, estimate
from serving.supervisor.fleet.cache import Admit, Decision, Evict, Refuse
from serving.supervisor.fleet.departures import Departures
from serving.supervisor.fleet.describe import without_paths
from serving.supervisor.fleet.devices import ANY, Devices, Look
from serving.supervisor.fleet.overrun import overrun
from serving.supervisor.fleet.replica import (
    LIVE,
    Abort,
    Action,
    Assign,
    Kill,
    Learned,
    Owner,
    Publish,
    Replica,
    Served,
    Stage,
    Start,
    Status,
    TakenOut,
)
from serving.supervisor.fleet.restarts import MAX_FAILURES, count_death, count_failure, give_up, is_calm, is_hopeless
from serving.supervisor.fleet.sparerule import SpareRule
from serving.supervisor.fleet.spares import Spare
from serving.supervisor.fleet.warmtier import Parked, joined
from serving.supervisor.store.diskcache import Cost

ABORT_TIME = 1.0  # seconds that a worker has to write its stacks before SIGKILL
MOVE_TIME = 30.0  # seconds that a model whose GPU broke waits for room on another
LOOK = 0.5  # seconds between looks at the memory of models
AGAIN = 0.001  # seconds between decisions per waiting model, so that many of them do not take all our time


class Fleet(Departures):
    """The models and their replicas. ``admission`` holds the memory budget; a single-model server has none and starts
    at once.

    ``spare_rule`` gives the number of spares on each device; without it there are none. ``warm_bytes`` of host memory
    are for workers of evicted models.
    """

    def __init__(
        self,
        board: Scoreboard,
        load_timeout: float,
        admission: Admission | None = None,
        devices: Devices | None = None,
        spare_rule: SpareRule | None = None,
        warm_bytes: int = 0,
    ) -> None:
        super().__init__(board, warm_bytes)
        self._load_timeout = load_timeout
        self._admission = admission or Admission()
        self._devices = devices or Devices()
        self._spare_rule = spare_rule
        self._key = 0
        self._next_look = 0.0

    # Models.

    def add(
        self,
        model: Model,
        now: float = 0.0,
        owner: Owner = Owner.START,
        wanted_until: float = 0.0,
        cost: Cost | None = None,
    ) -> Served:
        """Add a model, to be served as soon as there is room. It replaces a model of the same name, if there is one."""
        self._key += 1
        known = cost or estimate(model, self.spares.context() if self._admission.budget.devices else 0)
        served = Served(self._key, model, model.queue_size, owner, known, now, wanted_until=wanted_until)
        served.pinned, served.is_guessed = model.pin, cost is None
        if owner is Owner.START:
            served.stage, served.devices = Stage.SERVING, self._devices.spread(model, *self._room(served))
        served.predecessor = self._current.get(model.name)
        if served.predecessor is None:
            self._current[model.name] = served
        self._all.append(served)
        return served

    def admit(self, now: float) -> list[Action]:
        """Start the models that fit, in the order of arrival; make room where that is possible."""
        self._next_admit = now + AGAIN * sum(one.stage is Stage.WAITING for one in self._all)
        self._reserve()
        actions: list[Action] = []
        for served, decision in self._admission.decisions(self._all, now):
            actions += self._conclude(served, decision, now)
        stuck = any(one.waits for one in self._all) and not any(one.stage is Stage.LEAVING for one in self._all)
        # The CUDA contexts of parked workers take room as well.
        return [*actions, *self.warm.yield_one(now)] if stuck and self.warm.charge() else actions

    def _conclude(self, served: Served, decision: Decision, now: float) -> list[Action]:
        missing = served.model.replicas - len(self._rows)
        short = missing > 0 if isinstance(decision, Admit) else isinstance(decision, Refuse) and self.warm.charge()
        if short and len(self.warm) and now < served.wanted_until:
            return [*self.warm.yield_one(now)]  # decided again when that worker is gone
        if isinstance(decision, Admit) and missing > 0:
            why = f"model {served.name} needs {missing} more processes than the {ROWS} that there may be"
            return self._give_up_load(served, OutOfMemory(why), now)
        blocked = self._devices.blocked(served.model.device)
        if blocked is not None:
            return self._give_up_load(served, ModelFailed(f"model {served.name} cannot be served: {blocked}"), now)
        if isinstance(decision, Admit):
            served.stage = Stage.SERVING
            served.devices = decision.devices or self._devices.spread(served.model, *self._room(served))
            return [*self._go_home(served, now), *self._start_missing(served, now)]
        if isinstance(decision, Evict):
            return self._evict(decision.keys, f"room for {served.name}", now)
        why = f"there is no room for model {served.name}: {decision.why}"
        return self._give_up_load(served, OutOfMemory(why), now)

    def _reserve(self) -> None:
        host, held = self.spares.charge()
        self._admission.reserve(host, joined(held, self.warm.charge()))

    def _go_home(self, served: Served, now: float) -> list[Action]:
        """Place a model on the GPU where its parked worker is, though not the roomiest, if it fits there."""
        parked = self.warm.of(served.model)
        if parked is not None and served.devices and served.model.replicas == 1:
            room, each = self._room(served)
            own = each if parked.device in served.devices else 0
            if room.get(parked.device, 0) + own >= each and served.model.device in (*ANY, parked.device):
                served.devices = (parked.device,)
        return [*self.warm.forget(served.model, now)]

    # Ticks.

    def tick(self, now: float) -> list[Action]:
        """Return what is due by time alone: starts, kills, room for waiting models."""
        actions: list[Action] = []
        for served in list(self._all):
            for replica in list(served.replicas):
                actions += self._watch(replica, now)
            actions += self._start_missing(served, now)
        if now > self._next_look:
            self._next_look = now + LOOK
            actions += self._evict(self._admission.excess(self._all, now), "models have grown beyond the budget", now)
        # Decide again regularly, since rows change without an event; events are handled at once.
        actions += self.admit(now) if now > self._next_admit else []
        return [*actions, *self._tend_spares(now), *self.warm.tick(now)]

    def _start_missing(self, served: Served, now: float) -> list[Action]:
        if now < served.next_start or served.failed is not None or served.stage is not Stage.SERVING:
            return []
        actions: list[Action] = []
        for device in served.missing():
            if self._devices.hold_up(served, device, self.replicas(), now):
                continue
            waiting = None if served.no_spare else self._waiting_for(served.model, device)
            if waiting is not None:
                actions.append(self._take(waiting, served, now))
            elif len(self._rows):
                actions.append(self._start(served, device, now))
        return actions

    def _start(self, served: Served, device: str, now: float) -> Start:
        row, epoch = self._rows.claim()
        replica = Replica(served, device, row, epoch, now, now)
        served.replicas.append(replica)
        return Start(replica)

    def _waiting_for(self, model: Model, device: str) -> Spare | Parked | None:
        """Return a process that already runs. A spare's environment is fixed, so it is of no use to a model with its
        own.
        """
        # Any parked worker will do off the GPUs: a model may have left the choice of its device to the worker.
        parked = self.warm.of(model, device if device in self._devices else None)
        return parked or (None if model.env else self.spares.ready_on(device))

    def _take(self, waiting: Spare | Parked, served: Served, now: float) -> Assign:
        one = waiting
        replica = Replica(served, one.device, one.row, one.epoch, now, now, pid=one.pid, was_spare=True)
        if isinstance(waiting, Parked):
            self.warm.take(waiting)
            replica.was_parked = True
        else:
            self.spares.take(waiting)
        served.replicas.append(replica)
        if one.pid is not None:
            self._by_pid[one.pid] = replica
        return Assign(replica)

    def _tend_spares(self, now: float) -> list[Action]:
        if self._spare_rule is not None:
            self.spares.want(self._spare_rule(self._all, self._devices))
        self._reserve()
        return [*self.spares.tick(now, self.is_loading)]

    # The driver's reports.

    def look(self, look: Look, now: float) -> list[Action]:
        """Take out the GPUs that a look shows to be broken."""
        return self.take_out(self._devices.saw(look), now)

    def take_out(self, broken: Iterable[tuple[str, str]], now: float) -> list[Action]:
        """Take out broken GPUs: their models move to other GPUs, or fail if they may not move or there are none."""
        # Take all out first, so that nothing moves from one broken GPU to another.
        news = [(device, reason) for device, reason in broken if self._devices.take_out(device, reason)]
        actions: list[Action] = []
        for device, reason in news:
            self._admission.forget(device)
            self._next_admit = self._next_look = 0.0
            actions += [TakenOut(device, reason), *self.warm.leave_device(device, now)]
            for served in [one for one in self._all if one.stage is not Stage.LEAVING]:
                actions += self._leave_device(served, device, reason, now)
        return actions

    def _leave_device(self, served: Served, device: str, reason: str, now: float) -> list[Action]:
        blocked = self._devices.blocked(served.model.device)
        there = [one for one in served.live() if one.device == device]
        actions: list[Action] = []
        if blocked is not None and (served.owner is Owner.STORE or served.stage is Stage.WAITING):
            actions += self._give_up_load(served, ModelFailed(f"model {served.name} cannot be served: {blocked}"), now)
        elif blocked is not None:
            served.failed = blocked
            actions.append(Publish(served.name))
        elif device in served.devices and served.owner is not Owner.START and len(there) == len(served.live()):
            served.stage, served.wanted_until = Stage.WAITING, now + MOVE_TIME  # for room, like a new model
        elif device in served.devices:
            served.devices = self._devices.moved(served.devices, served.model, *self._room(served))
            served.model = msgspec.structs.replace(served.model, replicas=len(served.devices))
        for replica in there:
            actions += self.end(replica, f"{device} was taken out: {reason}", now)
        return actions

    def _room(self, served: Served) -> tuple[dict[str, int], int]:
        return self._admission.room(self._all, served, self._devices.usable)

    def _watch(self, replica: Replica, now: float) -> list[Action]:
        if replica.status is Status.DYING:
            return [Kill(replica)] if now > replica.since + ABORT_TIME else []
        reason = None if replica.pid is None else overrun(replica, self._load_timeout, now)
        if reason is None:
            return []
        if replica.status not in (Status.READY, Status.RETIRING):
            replica.error = reason
        return self.end(replica, reason, now)

    def end(self, replica: Replica, reason: str, now: float) -> list[Action]:
        """End a worker at once. Its replacement starts before it is gone, unless it holds memory that is needed."""
        if replica.status is Status.DYING:
            return []
        replica.become(Status.DYING, now)
        replica.row.pid = 0
        return [Abort(replica, reason), Publish(replica.name), *self._replace(replica.served, now)]

    def _replace(self, served: Served, now: float) -> list[Action]:
        if served.was_ready and served.failures == 0 and is_calm(served, now):
            return self._start_missing(served, now)
        return []

    # The workers' reports.

    def forked(self, row: int, epoch: int, pid: int) -> None:
        replica = self.find(row, epoch)
        if replica is not None:
            replica.pid = replica.row.pid = pid
            self._by_pid[pid] = replica
        else:
            self.spares.forked(row, epoch, pid)

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
        """Record a worker's next phase; with READY come the size of its queue and its device."""
        replica = self.find(row, epoch)
        if replica is None or replica.status not in LIVE:
            return []
        replica.become(phase, now)
        if phase is not Status.READY:
            return []
        served = replica.served
        if self._devices.visible(replica.device) is None or device == "cpu":
            replica.device = device or replica.device  # known only to the worker
        served.no_spare = False
        first, served.was_ready, served.failures, served.queue_size = not served.was_ready, True, 0, queue_size
        served.last_ready = served.used = now
        self._next_admit = 0.0
        served.batch_size, served.paths = batch_size, paths
        actions: list[Action] = []
        if served.learn(replica.row):
            actions.append(Learned(served))
        actions += self._came(served, now) if first else []
        return [*actions, Publish(served.name)]

    def _came(self, served: Served, now: float) -> list[Action]:
        """Handle the end of a load, after which the model's cost is measured."""
        lack = self._admission.lack(self._all, served, now)
        if lack is None:
            return self._settle_load(served, now)
        return self._give_up_load(served, OutOfMemory(f"there is no room for model {served.name}: {lack}"), now)

    def load_failed(
        self, row: int, epoch: int, error: str, permanent: bool, out_of_memory: bool = False
    ) -> list[Action]:
        """Record why a worker cannot serve; it ends by itself."""
        if (replica := self.find(row, epoch)) is None:
            return []
        served = replica.served
        replica.error = error = without_paths(error, served.model)
        replica.out_of_memory, replica.raised = out_of_memory, not out_of_memory
        return give_up(served, error) if permanent and not served.was_ready and served.owner is Owner.START else []

    def exited(
        self, replica: Replica, cause: str, now: float, out_of_memory: bool = False, fault: Fault = Fault.NONE
    ) -> list[Action]:
        """Handle the end of a worker's process, by ``cause`` in words and with the ``fault`` of its device."""
        served = replica.served
        served.replicas.remove(replica)
        if replica.pid is not None:
            self._by_pid.pop(replica.pid, None)
            self._devices.died(replica.device, replica.pid, now)
        self._rows.give_back(replica.row)
        self._next_admit = 0.0
        broken = fault is Fault.HARDWARE and replica.device in self._devices
        moves = self.take_out([(replica.device, cause)] if broken else [], now)
        return [*moves, *self._after(replica, cause, now, out_of_memory, broken)] if served in self._all else moves

    def _after(self, replica: Replica, cause: str, now: float, out_of_memory: bool, broken: bool) -> list[Action]:
        """Return what to do for a model that has lost a replica."""
        served = replica.served
        if served.stage is Stage.LEAVING:
            return self._forget(served) if not served.replicas else []
        actions: list[Action] = [Publish(served.name)]
        if replica.status is Status.RETIRING:
            return actions
        lost_spare = replica.was_spare and replica.status is Status.STARTING and not served.no_spare
        if broken or lost_spare:  # the model is not the cause
            served.no_spare = served.no_spare or lost_spare
            return actions + self._start_missing(served, now)
        if replica.row.phase >= replica.row.phase.READY:
            count_death(served, now)
        elif served.owner is Owner.START or served.was_ready:
            count_failure(served, replica.error or cause, now, replica.raised)
            if is_hopeless(served):
                return give_up(served, f"model {served.name} failed to load, twice: {replica.error}")
        else:
            short = out_of_memory or replica.out_of_memory
            return self._load_ended(served, replica.error or cause, short, now)
        if served.owner is Owner.STORE and served.failures >= MAX_FAILURES and not served.replicas:
            # Give it up, so that a later request can try it again.
            return self._give_up_load(served, ModelFailed(f"model {served.name} {served.failed}"), now)
        return actions + self._replace(served, now)

    def waiting_exited(self, worker: Spare | Parked, now: float) -> None:
        """Handle the end of a process that served no model."""
        self._next_admit = 0.0
        if isinstance(worker, Parked):
            self.warm.exited(worker)
        else:
            self.spares.exited(worker, now)

    def lost(self, replica: Replica, cause: str, now: float) -> list[Action]:
        """Ask again for a worker whose fork is unknown, through no fault of the model. It may live and have reported
        phases.
        """
        if replica.served.owner is Owner.START or replica.status not in LIVE:
            return self.exited(replica, cause, now)
        replica.served.replicas.remove(replica)
        self._rows.give_back(replica.row)
        return self._start_missing(replica.served, now)

    def _load_ended(self, served: Served, reason: str, short: bool, now: float) -> list[Action]:
        """Handle a failed first load. If memory was short it is tried once more, after another model is evicted."""
        if not short:
            return self._give_up_load(served, ModelFailed(f"model {served.name} failed to load: {reason}"), now)
        victim = self._admission.oldest(self._all, now)
        if served.made_room or victim is None or served.live():
            why = f"model {served.name} ran out of memory while it was loaded: {reason}"
            return self._give_up_load(served, OutOfMemory(why), now)
        served.made_room, served.after, served.stage = True, victim, Stage.WAITING
        return self._evict((victim,), f"{served.name} ran out of memory", now, parks=False)
