"""Executor: carries out what the fleet has decided, in order: forks, words to workers, kills, news to HTTP workers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from serving.ipc.messages import Fork, Placement
from serving.ipc.runtime import Runtime
from serving.model.model import Model
from serving.supervisor import processes
from serving.supervisor.control import Control
from serving.supervisor.fleet.actions import (
    Abort,
    Action,
    Assign,
    Discard,
    Dismiss,
    Evicted,
    GiveUp,
    Gone,
    Kill,
    Learned,
    Park,
    Publish,
    Retire,
    Settled,
    Spawn,
    Start,
    TakenOut,
)
from serving.supervisor.fleet.deployment import Role, WorkerProcess
from serving.supervisor.fleet.state import FleetState
from serving.supervisor.watch.counts import ROOM, UNLOAD, SupervisorCounts
from serving.system import log

News = Settled | Gone | Learned


class Executor:
    """Acts for the fleet. ``fork`` asks for a process, ``on_news`` is called with what has become of a model's load,
    ``on_change`` after each list of actions, ``on_end`` with the reason when the container cannot go on.
    """

    def __init__(
        self,
        state: FleetState,
        runtime: Runtime,
        control: Control,
        fork: Callable[[Fork], None],
        on_news: Callable[[News], None],
        on_change: Callable[[], None],
        on_end: Callable[[str], None],
        counts: SupervisorCounts,
    ) -> None:
        self._state = state
        self._runtime = runtime
        self._control = control
        self._fork = fork
        self._on_news = on_news
        self._on_change = on_change
        self._on_end = on_end
        self._counts = counts
        self._killed: dict[int, str] = {}

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            self._carry_out(action)
        self._on_change()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start(replica):
                self._start(replica)
            case Assign(replica):
                self._assign(replica)
            case Spawn(spare):
                self._spawn(spare)
            case Dismiss(spare):
                self.kill(spare.pid)
            case Park(replica):
                self._control.park(replica.row.index, replica.epoch)
            case Discard(parked, at_once):
                if at_once or not self._control.retire(parked.row.index, parked.epoch):
                    self.kill(parked.pid)
            case Retire(replica):  # if it has not said hello yet, it is asked when it does
                self._control.retire(replica.row.index, replica.epoch)
            case Abort(replica, reason):
                self._abort(replica, reason)
            case Kill(replica):
                self.kill(replica.pid)
            case Publish(name):
                self.send_placement(self.placement(name))
            case Evicted(deployment, reason):
                self._counts.evicted(deployment.name, ROOM)
                log.info("evicting", model=deployment.name, bytes=deployment.memory(), reason=reason)
            case TakenOut(device, reason):
                log.error("a GPU is taken out", device=device, reason=reason)
            case GiveUp(reason):
                self._on_end(reason)
            case Gone():
                self._counts.condense()
                self._on_news(action)
            case _:
                self._on_news(action)

    def count_unload(self, model: str) -> None:
        """Count a model that a client has unloaded."""
        self._counts.evicted(model, UNLOAD)

    def count_exit(self, worker: WorkerProcess, reason: str) -> None:
        """Count the end of a replica, for one of the reasons of reports."""
        if worker.role is Role.SERVING:
            self._counts.exited(worker.name, str(reason))

    # Processes.

    def _start(self, replica: WorkerProcess) -> None:
        visible = self._state.devices.visible(replica.device, replica.model.gpus)
        self._fork(Fork(replica.row.index, replica.epoch, self._model_of(replica), visible=visible))

    def _spawn(self, spare: WorkerProcess) -> None:
        devices = self._state.devices
        inside, visible = devices.inside(spare.device, "auto"), devices.visible(spare.device)
        self._fork(Fork(spare.row.index, spare.epoch, device=inside, visible=visible))

    def _model_of(self, replica: WorkerProcess) -> Model:
        """Return the replica's model with the device as its worker sees it."""
        model = replica.model
        return msgspec.structs.replace(model, device=self._state.devices.inside(replica.device, model.device))

    def _assign(self, replica: WorkerProcess) -> None:
        waiting = "a parked worker" if replica.taken_from is Role.PARKED else "a spare"
        log.info(f"{waiting} takes over", model=replica.name, worker=replica.pid, device=replica.device)
        if not self._control.assign(replica.row.index, replica.epoch, self._model_of(replica)):
            self.kill(replica.pid)  # it is ending; its end starts another worker

    def _abort(self, replica: WorkerProcess, reason: str) -> None:
        log.error("ending a worker", model=replica.name, worker=replica.pid, reason=reason)
        if replica.pid is not None:
            self._killed[replica.pid] = reason
            processes.abort(replica.pid)

    def kill(self, pid: int | None) -> None:
        if pid is not None:
            self._killed.setdefault(pid, "")
            processes.kill_group(pid)

    def has_killed(self, pid: int) -> bool:
        return pid in self._killed

    def why_aborted(self, pid: int) -> str:
        """Return the reason for which a process was aborted, "" if it was not."""
        return self._killed.get(pid, "")

    def forget(self, pid: int) -> None:
        """Forget a process that has ended, whose pid may be reused."""
        self._killed.pop(pid, None)

    # News.

    def placement(self, name: str) -> Placement:
        """Return where a model is, with the workers' sockets."""
        placement = self._state.placement(name)
        paths = [
            msgspec.structs.replace(address, path=str(self._runtime.worker_path(address.row, address.epoch)))
            for address in placement.replicas
        ]
        return msgspec.structs.replace(placement, replicas=paths)

    def send_placement(self, placement: Placement) -> None:
        """Send a placement to the HTTP workers that asked for its model."""
        self._control.send_placement(placement)
