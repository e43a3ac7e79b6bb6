"""Starting: how a model gets its place and its workers: when it is admitted, and when one of its workers is lost."""

from __future__ import annotations

from serving.errors import ModelFailed, OutOfMemory
from serving.ipc.scoreboard import ROWS
from serving.model.model import Model
from serving.supervisor.fleet.actions import Abort, Action, Assign, Publish, Start
from serving.supervisor.fleet.admission import Ruling
from serving.supervisor.fleet.cache import Admit, Evict, Refuse, Wait
from serving.supervisor.fleet.deployment import Deployment, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.devices import ANY, RETURN_TIME
from serving.supervisor.fleet.state import FleetState
from serving.supervisor.fleet.unloading import Unloading

AGAIN = 0.001  # seconds between decisions per waiting model, so that many of them do not take all our time


class WorkerStarter:
    """Gives deployments the workers that they lack: parked ones, spares, or new processes."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def start_missing(self, deployment: Deployment, now: float) -> list[Action]:
        may_start = now >= deployment.restarts.next_start and deployment.failed is None
        if not may_start or deployment.stage is not Stage.SERVING:
            return []
        workers = self._state.workers
        actions: list[Action] = []
        for device in deployment.missing():
            if self._hold_up(deployment, device, now):
                continue
            waiting = None if deployment.no_spare else self._waiting_for(deployment.model, device)
            if waiting is not None:
                workers.take_over(waiting, deployment, now)
                actions.append(Assign(waiting))
            elif len(workers.rows):
                actions.append(Start(workers.start(Role.SERVING, device, now, deployment)))
        return actions

    def _hold_up(self, deployment: Deployment, device: str, now: float) -> bool:
        """Record whether the next start waits for a dead worker's memory, and return it; at most for RETURN_TIME."""
        if not self._state.devices.lacks_memory(deployment, device, self._state.workers.of(Role.SERVING)):
            deployment.held_up.pop(device, None)
            return False
        if now <= deployment.held_up.setdefault(device, now) + RETURN_TIME:
            return True
        del deployment.held_up[device]
        return False

    def _waiting_for(self, model: Model, device: str) -> WorkerProcess | None:
        """Return a process that already runs. A spare's environment is fixed, so it is of no use to a model with its
        own.
        """
        # Any parked worker will do off the GPUs: a model may have left the choice of its device to the worker.
        parked = self._state.warm.of(model, device if device in self._state.devices else None)
        return parked or (None if model.env else self._state.spares.ready_on(device))

    def end(self, replica: WorkerProcess, reason: str, now: float) -> list[Action]:
        """End a worker at once. Its replacement starts before it is gone, unless it holds memory that is needed."""
        if replica.status is Status.DYING:
            return []
        replica.become(Status.DYING, now)
        replica.row.pid = 0
        return [Abort(replica, reason), Publish(replica.name), *self.replace(replica.deployment, now)]

    def replace(self, deployment: Deployment, now: float) -> list[Action]:
        """Start at once what is missing, where the model does not keep failing."""
        restarts = deployment.restarts
        if deployment.was_ready and restarts.failures == 0 and restarts.is_calm(now):
            return self.start_missing(deployment, now)
        return []


class Admitting:
    """Decides which waiting deployments get a place, and makes room for them."""

    def __init__(self, state: FleetState, unloading: Unloading, starter: WorkerStarter) -> None:
        self._state = state
        self._unloading = unloading
        self._starter = starter

    def admit(self, now: float) -> list[Action]:
        """Start the models that fit, in the order of arrival; make room where that is possible."""
        state, everything = self._state, self._state.everything()
        state.next_admit = now + AGAIN * sum(one.stage is Stage.WAITING for one in everything)
        state.reserve()
        actions: list[Action] = []
        for ruling in state.admission.rulings(everything, now):
            self._record(ruling)
            actions += self._conclude(ruling, now) if ruling.is_due else []
        stuck = any(one.waits for one in everything) and not any(one.stage is Stage.LEAVING for one in everything)
        # The CUDA contexts of parked workers take room as well.
        return [*actions, *state.warm.yield_one(now)] if stuck and state.warm.charge() else actions

    def _record(self, ruling: Ruling) -> None:
        """Book the cost that the decision was based on, and log the decision unless it repeats a wait."""
        deployment = ruling.deployment
        if ruling.cost is not deployment.cost:
            deployment.cost, deployment.is_guessed = ruling.cost, False
        waited, deployment.waits = deployment.waits, isinstance(ruling.decision, Wait)
        if not (waited and deployment.waits):
            self._state.admission.record(ruling)

    def _conclude(self, ruling: Ruling, now: float) -> list[Action]:
        state, deployment, decision = self._state, ruling.deployment, ruling.decision
        missing = deployment.model.replicas - len(state.workers.rows)
        short = missing > 0 if isinstance(decision, Admit) else isinstance(decision, Refuse) and state.warm.charge()
        if short and len(state.warm) and now < deployment.wanted_until:
            return [*state.warm.yield_one(now)]  # decided again when that worker is gone
        if isinstance(decision, Admit) and missing > 0:
            why = f"model {deployment.name} needs {missing} more processes than the {ROWS} that there may be"
            return self._unloading.give_up_load(deployment, OutOfMemory(why), now)
        blocked = state.devices.blocked(deployment.model.device)
        if blocked is not None:
            return self._unloading.give_up_load(deployment, cannot_be_served(deployment, blocked), now)
        if isinstance(decision, Admit):
            deployment.become(Stage.SERVING)
            deployment.devices = decision.devices or state.devices.spread(deployment.model, *state.room(deployment))
            self._go_home(deployment)
            forgotten = state.warm.forget(deployment.model, now)
            return [*forgotten, *self._starter.start_missing(deployment, now)]
        if isinstance(decision, Evict):
            return self._unloading.evict(decision.keys, f"room for {deployment.name}", now)
        return self._unloading.give_up_load(deployment, no_room(deployment, decision.why), now)

    def _go_home(self, deployment: Deployment) -> None:
        """Place a model on the GPU where its parked worker is, though not the roomiest, if it fits there."""
        parked = self._state.warm.of(deployment.model)
        if parked is not None and deployment.devices and deployment.model.replicas == 1:
            room, each = self._state.room(deployment)
            own = each if parked.device in deployment.devices else 0
            if room.get(parked.device, 0) + own >= each and deployment.model.device in (*ANY, parked.device):
                deployment.devices = (parked.device,)


def no_room(deployment: Deployment, why: str) -> OutOfMemory:
    return OutOfMemory(f"there is no room for model {deployment.name}: {why}")


def cannot_be_served(deployment: Deployment, why: str) -> ModelFailed:
    return ModelFailed(f"model {deployment.name} cannot be served: {why}")
