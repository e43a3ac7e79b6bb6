"""WorkerReports: what follows from the reports of workers, and from their ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.errors import ModelFailed, OutOfMemory
from serving.ipc.messages import Paths
from serving.ipc.scoreboard import Phase
from serving.supervisor.fleet.actions import Action, GiveUp, Learned, Publish
from serving.supervisor.fleet.deployment import LIVE, Deployment, Owner, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.describe import without_paths
from serving.supervisor.fleet.starting import WorkerStarter, no_room
from serving.supervisor.fleet.state import FleetState
from serving.supervisor.fleet.unloading import Unloading


@dataclass(frozen=True, slots=True)
class Progress:
    """A replica's next status as it reports it. With READY come the size of its queue and of its batches in requests,
    its device, and the paths that its handler takes.
    """

    status: Status
    queue_size: int = 0
    device: str = ""
    batch_size: int = 0
    paths: Paths = field(default_factory=Paths)


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """The end of a replica's process, by ``cause`` in words. ``out_of_memory``: memory was short; ``broke_gpu``: its
    GPU was taken out for it.
    """

    cause: str
    out_of_memory: bool = False
    broke_gpu: bool = False


class WorkerReports:
    """The reports of replicas: how their loads go on, and what to do for a deployment that has lost one."""

    def __init__(self, state: FleetState, unloading: Unloading, starter: WorkerStarter) -> None:
        self._state = state
        self._unloading = unloading
        self._starter = starter

    # Loads.

    def progress(self, row: int, epoch: int, progress: Progress, now: float) -> list[Action]:
        """Record a replica's next status."""
        replica = self._state.workers.find(row, epoch, Role.SERVING)
        if replica is None or replica.status not in LIVE:
            return []
        replica.become(progress.status, now)
        return self._came_up(replica, progress, now) if progress.status is Status.READY else []

    def _came_up(self, replica: WorkerProcess, progress: Progress, now: float) -> list[Action]:
        deployment = replica.deployment
        if self._state.devices.visible(replica.device) is None or progress.device == "cpu":
            replica.device = progress.device or replica.device  # known only to the worker
        first, deployment.was_ready, deployment.no_spare = not deployment.was_ready, True, False
        deployment.restarts.succeed()
        deployment.last_ready = deployment.used = now
        deployment.queue_size = progress.queue_size
        deployment.batch_size, deployment.paths = progress.batch_size, progress.paths
        self._state.admit_soon()
        actions: list[Action] = [Learned(deployment)] if deployment.learn(replica.row) else []
        actions += self._loaded(deployment, now) if first else []
        return [*actions, Publish(deployment.name)]

    def _loaded(self, deployment: Deployment, now: float) -> list[Action]:
        """Handle the end of a load, after which the model's cost is measured."""
        lack = self._state.admission.lack(self._state.everything(), deployment, now)
        if lack is None:
            return self._unloading.settle_load(deployment, now)
        return self._unloading.give_up_load(deployment, no_room(deployment, lack), now)

    def load_failed(
        self, row: int, epoch: int, error: str, permanent: bool, out_of_memory: bool = False
    ) -> list[Action]:
        """Record why a worker cannot serve; it ends by itself."""
        if (replica := self._state.workers.find(row, epoch, Role.SERVING)) is None:
            return []
        deployment = replica.deployment
        replica.error = error = without_paths(error, deployment.model)
        replica.out_of_memory, replica.raised = out_of_memory, not out_of_memory
        hopeless = permanent and not deployment.was_ready and deployment.owner is Owner.START
        return give_up(deployment, error) if hopeless else []

    # Ends.

    def ended(self, replica: WorkerProcess, end: WorkerEnd, now: float) -> list[Action]:
        """Return what to do for a deployment that has lost a replica."""
        deployment = replica.deployment
        if deployment.stage is Stage.LEAVING:
            return self._unloading.forget(deployment) if not deployment.replicas else []
        actions: list[Action] = [Publish(deployment.name)]
        if replica.status is Status.RETIRING or deployment.stage is Stage.WAITING:  # an earlier try
            return actions
        lost_spare = replica.taken_from is not None and replica.status is Status.STARTING and not deployment.no_spare
        if end.broke_gpu or lost_spare:  # the model is not the cause
            deployment.no_spare = deployment.no_spare or lost_spare
            return actions + self._starter.start_missing(deployment, now)
        if replica.row.phase >= Phase.READY:
            deployment.restarts.count_death(now)
        elif deployment.owner is Owner.START or deployment.was_ready:
            if (why := self._count_failure(replica, end, now)) is not None:
                return give_up(deployment, why)
        else:
            return self._load_ended(replica, end, now)
        if deployment.owner is Owner.STORE and deployment.restarts.are_over and not deployment.replicas:
            # Give it up, so that a later request can try it again.
            error = ModelFailed(f"model {deployment.name} {deployment.failed}")
            return self._unloading.give_up_load(deployment, error, now)
        return actions + self._starter.replace(deployment, now)

    def _count_failure(self, replica: WorkerProcess, end: WorkerEnd, now: float) -> str | None:
        """Count a start that failed; returns the reason to give up the server, whose only model cannot be loaded: its
        load has raised an error again, in a second try.
        """
        deployment, restarts = replica.deployment, replica.deployment.restarts
        restarts.count_failure(now, replica.raised)
        if restarts.are_over:
            times, why = restarts.failures, replica.error or end.cause
            deployment.failed = f"failed to start {times} times in a row; the last time: {why}"
        is_only = deployment.owner is Owner.START and not deployment.was_ready
        if is_only and restarts.refusals > deployment.model.replicas:
            return f"model {deployment.name} failed to load, twice: {replica.error}"
        return None

    def _load_ended(self, replica: WorkerProcess, end: WorkerEnd, now: float) -> list[Action]:
        """Handle a failed first load. If memory was short it is tried once more, after another model is evicted."""
        deployment, reason = replica.deployment, replica.error or end.cause
        if not (end.out_of_memory or replica.out_of_memory):
            error = ModelFailed(f"model {deployment.name} failed to load: {reason}")
            return self._unloading.give_up_load(deployment, error, now)
        victim = self._state.admission.oldest(self._state.everything(), now)
        if deployment.made_room or victim is None or deployment.live():
            why = f"model {deployment.name} ran out of memory while it was loaded: {reason}"
            return self._unloading.give_up_load(deployment, OutOfMemory(why), now)
        deployment.become(Stage.WAITING)
        deployment.made_room, deployment.after = True, victim
        return self._unloading.evict((victim,), f"{deployment.name} ran out of memory", now, parks=False)


def give_up(deployment: Deployment, why: str) -> list[Action]:
    """End a server whose only model can never be served; waiting requests get the reason."""
    deployment.failed = why
    return [Publish(deployment.name), GiveUp(why)]
