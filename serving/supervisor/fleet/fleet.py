"""Fleet: decides which replica of which model lives where, and what to do about it. Never acts.

Every method takes an event and the time, changes the state, and returns a list of actions for the supervisor to carry
out in order. What is known can be read from ``state``, ``workers``, ``spares`` and ``warm``, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from serving.ipc.faults import Fault
from serving.ipc.scoreboard import Scoreboard
from serving.model.model import Model
from serving.supervisor.fleet.actions import Action, Kill, Publish, TakenOut
from serving.supervisor.fleet.admission import Admission, estimate
from serving.supervisor.fleet.deployment import LIVE, Deployment, Owner, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.devices import Devices, Look
from serving.supervisor.fleet.overrun import has_answered, overrun
from serving.supervisor.fleet.spares import SpareRule
from serving.supervisor.fleet.starting import Admitting, WorkerStarter, cannot_be_served
from serving.supervisor.fleet.state import FleetState
from serving.supervisor.fleet.unloading import Unloading
from serving.supervisor.fleet.workerreports import Progress, WorkerEnd, WorkerReports
from serving.supervisor.store.diskcache import Cost

ABORT_TIME = 1.0  # seconds that a worker has to write its stacks before SIGKILL
MOVE_TIME = 30.0  # seconds that a model whose GPU broke waits for room on another
LOOK = 0.5  # seconds between looks at the memory of models


class Fleet:
    """The models and their replicas. ``admission`` holds the memory budget; a single-model server has none and starts
    at once. ``load_timeout`` is in seconds.

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
        self.state = FleetState(board, admission or Admission(), devices or Devices(), warm_bytes)
        self.workers, self.spares, self.warm = self.state.workers, self.state.spares, self.state.warm
        self._unloading = Unloading(self.state)
        self._starter = WorkerStarter(self.state)
        self._admitting = Admitting(self.state, self._unloading, self._starter)
        self._worker_reports = WorkerReports(self.state, self._unloading, self._starter)
        self._load_timeout = load_timeout
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
    ) -> Deployment:
        """Add a model, to be served as soon as there is room. It replaces a model of the same name, if there is one."""
        state = self.state
        self._key += 1
        known = cost or estimate(model, self.spares.context() if state.admission.budget.devices else 0)
        added = Deployment(self._key, model, model.queue_size, owner, known, now, wanted_until=wanted_until)
        added.pinned, added.is_guessed = model.pin, cost is None
        if owner is Owner.START:
            added.become(Stage.SERVING)
            added.devices = state.devices.spread(model, *state.room(added))
        state.add(added)
        return added

    def admit(self, now: float) -> list[Action]:
        """Start the models that fit, in the order of arrival; make room where that is possible."""
        return self._admitting.admit(now)

    def leave(self, deployment: Deployment, now: float) -> list[Action]:
        """Let a model finish its requests and end."""
        return self._unloading.leave(deployment, now)

    def retire(self, now: float) -> list[WorkerProcess]:
        """Let all replicas finish and end; no new ones start. Returns the replicas that retire."""
        return self._unloading.retire(now)

    # Time.

    def tick(self, now: float) -> list[Action]:
        """Return what is due by time alone: starts, kills, room for waiting models."""
        everything = self.state.everything()
        actions: list[Action] = []
        for deployment in list(everything):
            for replica in list(deployment.replicas):
                actions += self._watch(replica, now)
            actions += self._starter.start_missing(deployment, now)
        if now > self._next_look:
            self._next_look = now + LOOK
            grown = self.state.admission.excess(everything, now)
            actions += self._unloading.evict(grown, "models have grown beyond the budget", now)
        # Decide again regularly, since rows change without an event; events are handled at once.
        actions += self.admit(now) if now > self.state.next_admit else []
        return [*actions, *self._tend_spares(now), *self.warm.tick(now)]

    def _watch(self, replica: WorkerProcess, now: float) -> list[Action]:
        if replica.status is Status.DYING:
            return [Kill(replica)] if now > replica.since + ABORT_TIME else []
        reason = None if replica.pid is None else overrun(replica, self._load_timeout, now)
        if reason is None:
            if has_answered(replica) and not replica.row.busy_until:
                replica.overdue = None
            return []
        if replica.status not in (Status.READY, Status.RETIRING, Status.PARKING):
            replica.error = reason
        return self.end(replica, reason, now)

    def end(self, replica: WorkerProcess, reason: str, now: float) -> list[Action]:
        """End a worker at once. Its replacement starts before it is gone, unless it holds memory that is needed."""
        return self._starter.end(replica, reason, now)

    def _tend_spares(self, now: float) -> list[Action]:
        if self._spare_rule is not None:
            self.spares.want(self._spare_rule(self.state.everything(), self.state.devices))
        self.state.reserve()
        return [*self.spares.tick(now, self.state.is_loading)]

    # The driver's reports.

    def look(self, look: Look, now: float) -> list[Action]:
        """Take out the GPUs that a look shows to be broken."""
        return self.take_out(self.state.devices.saw(look), now)

    def take_out(self, broken: Iterable[tuple[str, str]], now: float) -> list[Action]:
        """Take out broken GPUs: their models move to other GPUs, or fail if they may not move or there are none."""
        # Take all out first, so that nothing moves from one broken GPU to another.
        news = [(device, reason) for device, reason in broken if self.state.devices.take_out(device, reason)]
        actions: list[Action] = []
        for device, reason in news:
            self.state.admission.forget(device)
            self.state.admit_soon()
            self._next_look = 0.0
            actions += [TakenOut(device, reason), *self.warm.leave_device(device, now)]
            for deployment in list(self.state.everything()):
                if deployment.stage is not Stage.LEAVING:  # as a successor does with the model that it is to replace
                    actions += self._leave_device(deployment, device, reason, now)
        return actions

    def _leave_device(self, deployment: Deployment, device: str, reason: str, now: float) -> list[Action]:
        devices, model = self.state.devices, deployment.model
        blocked = devices.blocked(model.device)
        there = [one for one in deployment.live() if one.device == device]
        actions: list[Action] = []
        if blocked is not None and (deployment.owner is Owner.STORE or deployment.stage is Stage.WAITING):
            actions += self._unloading.give_up_load(deployment, cannot_be_served(deployment, blocked), now)
        elif blocked is not None:
            deployment.failed = blocked
            actions.append(Publish(deployment.name))
        elif device in deployment.devices and deployment.owner is not Owner.START and there == deployment.live():
            if deployment.stage is Stage.SERVING:
                deployment.become(Stage.WAITING)  # for room, like a new model
            deployment.wanted_until = now + MOVE_TIME
        elif device in deployment.devices:
            deployment.devices = devices.moved(deployment.devices, model, *self.state.room(deployment))
            deployment.model = msgspec.structs.replace(model, replicas=len(deployment.devices))
        for replica in there:
            actions += self.end(replica, f"{device} was taken out: {reason}", now)
        return actions

    # The workers' reports.

    def progress(self, row: int, epoch: int, progress: Progress, now: float) -> list[Action]:
        """Record a replica's next status."""
        return self._worker_reports.progress(row, epoch, progress, now)

    def parked(self, row: int, epoch: int, now: float) -> list[Action]:
        """Handle a worker that has moved its weights to the host; its row has the memory that it holds now."""
        return self._unloading.parked(row, epoch, now)

    def load_failed(
        self, row: int, epoch: int, error: str, permanent: bool, out_of_memory: bool = False
    ) -> list[Action]:
        """Record why a worker cannot serve; it ends by itself."""
        return self._worker_reports.load_failed(row, epoch, error, permanent, out_of_memory)

    def exited(
        self, replica: WorkerProcess, cause: str, now: float, out_of_memory: bool = False, fault: Fault = Fault.NONE
    ) -> list[Action]:
        """Handle the end of a replica's process, by ``cause`` in words and with the ``fault`` of its device."""
        devices = self.state.devices
        self.workers.ended(replica, now)
        if replica.pid is not None:
            devices.died(replica.device, replica.pid, now)
        self.state.admit_soon()
        broken = fault is Fault.HARDWARE and replica.device in devices
        moves = self.take_out([(replica.device, cause)] if broken else [], now)
        if replica.deployment not in self.state.everything():
            return moves
        return [*moves, *self._worker_reports.ended(replica, WorkerEnd(cause, out_of_memory, broken), now)]

    def waiting_exited(self, worker: WorkerProcess, now: float) -> None:
        """Handle the end of a process that served no model."""
        self.state.admit_soon()
        if worker.role is Role.PARKED:
            self.warm.exited(worker, now)
        else:
            self.spares.exited(worker, now)

    def lost(self, replica: WorkerProcess, cause: str, now: float) -> list[Action]:
        """Ask again for a worker whose fork is unknown, through no fault of the model. It may live and have reported
        phases.
        """
        if replica.deployment.owner is Owner.START or replica.status not in LIVE:
            return self.exited(replica, cause, now)
        self.workers.ended(replica, now)
        return self._starter.start_missing(replica.deployment, now)
