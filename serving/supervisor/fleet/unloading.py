"""Unloading: how a model leaves: evicted, unloaded, replaced by its successor or given up. Nothing starts here."""

from __future__ import annotations

from collections.abc import Iterable

from serving.errors import ServingError
from serving.ipc.messages import Problem
from serving.supervisor.fleet.actions import Action, Evicted, Gone, Park, Publish, Retire, Settled
from serving.supervisor.fleet.deployment import Deployment, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.state import FleetState


class Unloading:
    """The ends of deployments. A deployment that leaves is charged with its memory until its last process has ended."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def evict(self, keys: Iterable[int], reason: str, now: float, parks: bool = True) -> list[Action]:
        victims = {deployment.key: deployment for deployment in self._state.everything()}
        actions: list[Action] = []
        for key in keys:
            actions += [Evicted(victims[key], reason), *self.leave(victims[key], now, parks=parks)]
        return actions

    def leave(
        self, deployment: Deployment, now: float, problem: Problem | None = None, parks: bool = False
    ) -> list[Action]:
        """Let a model finish its requests and end. ``problem`` goes to requests that wait for it; with ``parks`` its
        workers may keep their weights.
        """
        if deployment.stage is not Stage.LEAVING:
            deployment.become(Stage.LEAVING)
        deployment.problem = problem
        actions: list[Action] = [Publish(deployment.name)]
        for replica in deployment.live():
            stays = parks and self._may_park(replica)
            replica.become(Status.PARKING if stays else Status.RETIRING, now)
            actions.append(Park(replica) if stays else Retire(replica))
        for successor in self._successors(deployment):
            actions += self.leave(successor, now)
        return actions if deployment.replicas else [*actions, *self.forget(deployment)]

    def _successors(self, deployment: Deployment) -> list[Deployment]:
        everything = self._state.everything()
        return [one for one in everything if one.predecessor is deployment and one.stage is not Stage.LEAVING]

    def _may_park(self, replica: WorkerProcess) -> bool:
        if not replica.is_ready or replica.cut is not None:
            return False
        return self._state.warm.takes(replica.model, replica.row.memory + replica.row.device_memory)

    def parked(self, row: int, epoch: int, now: float) -> list[Action]:
        """Handle a worker that has moved its weights to the host; its row has the memory that it holds now."""
        replica = self._state.workers.find(row, epoch, Role.SERVING)
        if replica is None or replica.status is not Status.PARKING:
            return []
        deployment = replica.deployment
        wanted = {other.name for other in self._state.everything() if other.stage is Stage.WAITING}
        actions: list[Action] = [*self._state.warm.park(replica, now, wanted)]
        return actions if deployment.replicas else [*actions, *self.forget(deployment)]

    def forget(self, deployment: Deployment) -> list[Action]:
        self._state.remove(deployment)
        return [Gone(deployment)]

    def give_up_load(self, deployment: Deployment, error: ServingError, now: float) -> list[Action]:
        problem = Problem.of(error)
        if deployment.predecessor is not None:
            deployment.predecessor.reload_error = problem.message
        return [Settled(deployment, problem), *self.leave(deployment, now, problem)]

    def settle_load(self, deployment: Deployment, now: float) -> list[Action]:
        actions: list[Action] = [Settled(deployment, None)]
        old, deployment.predecessor = deployment.predecessor, None
        if old is not None and old.stage is not Stage.LEAVING:
            self._state.replace(deployment)
            deployment.owner = old.owner
            # A client's pin holds until the model's own setting changes.
            deployment.pinned = deployment.pinned if deployment.model.pin != old.model.pin else old.pinned
            actions += self.leave(old, now)
        return actions

    def retire(self, now: float) -> list[WorkerProcess]:
        """Let all workers finish and end; no new ones start. Returns the replicas that retire."""
        retiring = []
        for deployment in self._state.everything():
            deployment.failed = deployment.failed or "the server is stopping"
            for replica in deployment.live():
                replica.become(Status.RETIRING, now)
                retiring.append(replica)
        return retiring
