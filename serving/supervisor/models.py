"""Models: carries out the fleet's decisions, and passes on to it what HTTP workers ask and model workers report."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from serving.config.config import Config
from serving.errors import ModelError
from serving.ipc.faults import told_by
from serving.ipc.messages import Answer, Ask, Fork, Forked, Locate, Overdue, Placement, WorkerPhase
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard, State
from serving.model.model import Model
from serving.supervisor import processes
from serving.supervisor.catalog import Catalog
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
from serving.supervisor.fleet.admission import Admission, budget_of, log_ruling
from serving.supervisor.fleet.deployment import Role, Status, WorkerProcess
from serving.supervisor.fleet.describe import counts, server_state
from serving.supervisor.fleet.devices import Devices, Look
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.fleet.lifecycle import Progress
from serving.supervisor.fleet.pace import pause
from serving.supervisor.fleet.spares import SpareRule
from serving.supervisor.gpuwatch import GpuWatch
from serving.supervisor.processes import Exit
from serving.supervisor.store.diskcache import DiskCache
from serving.supervisor.store.repository import ModelRepository
from serving.system import cgroup, log, memory
from serving.system.gpus.driver import Driver

LAST_WORDS, LOOKS = 0.05, 20  # seconds between looks for the reason that a worker gave for its end; how many looks
FORK_SERVER = 256 << 20  # bytes; the fork server's memory until it is measured


class Models:
    """The models and their workers. ``models`` are served from the start; with a ``disk`` cache a store's models come
    and go.

    ``driver`` reports on GPUs. ``fork`` asks for a worker, ``on_change`` is called when the fleet's books have changed,
    ``on_end`` with the reason when the container cannot go on.
    """

    def __init__(
        self,
        config: Config,
        models: Sequence[Model],
        runtime: Runtime,
        board: Scoreboard,
        disk: DiskCache | None,
        driver: Driver,
        fork: Callable[[Fork], None],
        on_change: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._board = board
        self._fork = fork
        self._on_change = on_change
        self._on_end = on_end
        self._devices = Devices(driver.gpus())
        self._watch = GpuWatch(driver, self._on_look)
        budget = None if disk is None else budget_of(config, FORK_SERVER, self._devices.gpus())
        self._admission = Admission(budget, log_ruling, not config.session_evict)
        rule = SpareRule(config.spares, config.device)
        warm_bytes = 0 if disk is None else config.warm_tier_bytes
        self._fleet = Fleet(board, config.load_timeout, self._admission, self._devices, rule, warm_bytes)
        for model in models:
            self._fleet.add(model)
        self._control = Control(runtime, board, self)
        self._catalog = None if disk is None else self._make_catalog(disk)
        self._killed: set[int] = set()
        self._oom_kills = cgroup.oom_kills()

    def _make_catalog(self, disk: DiskCache) -> Catalog:
        gpus = [gpu.name for gpu in self._devices.gpus()]
        repository = ModelRepository(self._config, disk, self._is_in_use, gpus)
        return Catalog(self._config, self._fleet, repository, disk, self._act, self._control.tell, self._placement)

    def _is_in_use(self, folder: Path) -> bool:
        models = [deployment.model for deployment in self._fleet.state.everything()]
        models += [parked.model for parked in self._fleet.warm.all()]
        return any(Path(model.path).is_relative_to(folder) for model in models)

    async def start(self) -> None:
        await self._control.start()
        self._watch.start()

    def preload(self) -> None:
        """Begin to load the models that the settings name."""
        if self._catalog is not None:
            self._catalog.preload()

    def close(self) -> None:
        self._control.close()
        self._watch.close()
        if self._catalog is not None:
            self._catalog.close()

    # Events: time, and other processes.

    def tick(self, now: float) -> None:
        self._act(self._fleet.tick(now))
        self._watch.hurry(self._devices.awaits)
        if self._catalog is not None:
            self._catalog.look(now)

    def pause(self, now: float) -> float:
        """Return the seconds until ``tick`` should be called again."""
        return pause(self._fleet.state.everything(), now)

    def waits_for_fork(self, now: float, limit: float) -> bool:
        return self._fleet.workers.waits_for_fork(now, limit)

    def on_fork_server(self, pid: int) -> None:
        """Set the memory budget, for which the ready fork server is measured. Raises ModelError where it leaves models
        nothing.
        """
        if self._catalog is not None:
            # GPUs count with what was free at the start: models may have taken some of it by now.
            base = memory.resident(pid)
            budget = budget_of(self._config, base, self._devices.gpus())
            if budget.host <= 0:
                raise ModelError(
                    f"host_memory leaves no memory to models: their processes share {base} bytes of it, and the warm "
                    f"tier has {self._config.warm_tier_bytes}"
                )
            self._admission.set_budget(budget)
            log.info("the budget is set", bytes=budget.host, devices=budget.devices)

    def on_fork_server_lost(self) -> None:
        """Give up the forks that a dead fork server may or may not have carried out, and ask for them again."""
        for replica in self._fleet.workers.of(Role.SERVING):
            if replica.pid is None:
                # The worker may live, and have said hello, although its fork was never reported.
                self._control.retire(replica.row.index, replica.epoch)
                self._act(self._fleet.lost(replica, "the fork server ended", time.monotonic()))
        for spare in self._fleet.spares.all():
            if spare.pid is None:
                self._fleet.spares.exited(spare, time.monotonic())

    def on_forked(self, message: Forked) -> None:
        if message.pid:
            worker = self._fleet.workers.forked(message.row, message.epoch, message.pid)
            if worker is not None and worker.role is Role.SERVING:
                log.info("a worker begins", model=worker.name, worker=message.pid, device=worker.device)
            elif worker is not None:
                if not worker.is_wanted:
                    self._kill(message.pid)  # it was dismissed before it was forked
                self._tell_of(worker)
            return
        spare = self._fleet.workers.find(message.row, message.epoch, Role.SPARE)
        if spare is not None:
            self._fleet.spares.exited(spare, time.monotonic())
        replica = self._fleet.workers.find(message.row, message.epoch, Role.SERVING)
        if replica is not None:
            log.error("no process could be made for a worker", model=replica.name)
            self._act(self._fleet.exited(replica, "no process could be made", time.monotonic(), out_of_memory=True))

    def worker(self, pid: int) -> WorkerProcess | None:
        return self._fleet.workers.by_pid(pid)

    def pids(self) -> list[int]:
        return self._fleet.workers.pids()

    def retire(self) -> None:
        """Ask all workers to finish and exit."""
        now = time.monotonic()
        self._act([*self._fleet.spares.close(now), *self._fleet.warm.close(now)])
        for replica in self._fleet.retire(now):
            if not self._control.retire(replica.row.index, replica.epoch):
                self._kill(replica.pid)

    @property
    def frontends(self) -> int:
        """The number of HTTP workers that have ever said hello."""
        return self._control.frontends

    @property
    def are_gone(self) -> bool:
        return self._fleet.workers.is_empty

    def counts(self) -> tuple[int, int, float]:
        """Return the number of replicas ready, the number wanted, and the instant at which one was last ready."""
        return counts(self._fleet.state.everything())

    def state(self, can_start: bool, could_start: bool) -> tuple[State, str]:
        """Return the server's state and why. ``can_start``: the fork server is ready; ``could_start``: it has run
        before.
        """
        if self._catalog is None:
            return server_state(self._fleet.state.everything())
        blocked = self._devices.blocked(self._config.device)
        if blocked is not None and not any(one.ready() for one in self._fleet.state.everything()):
            return State.FAILED, blocked
        # One failed model of many does not make the server unhealthy; without the fork server no model can load.
        if can_start:
            return (State.LOADING, "") if self._catalog.is_preloading else (State.READY, "")
        return (State.DEGRADED, "the fork server is starting") if could_start else (State.STARTING, "")

    def on_exit(self, replica: WorkerProcess, gone: Exit, looks: int = LOOKS) -> None:
        """Handle the end of a worker's process; up to ``looks`` more looks wait for the reason of an orderly end."""
        if replica.role is not Role.SERVING:
            self._on_waiting_exit(replica, gone)
            return
        if gone.code == 0 and replica.owes_a_reason and looks:
            # A worker ends so after it has reported why it cannot serve; the report may still be in its socket.
            asyncio.get_running_loop().call_later(LAST_WORDS, self.on_exit, replica, gone, looks - 1)
            return
        fault, meaning = told_by(gone.code)
        stacks = self._runtime.forget_worker(replica.row.index, replica.epoch, model=replica.name, worker=gone.pid)
        self._board.bury(replica.row)
        cause = f"{gone}: {meaning}" if meaning else str(gone)
        # An orderly end after a reported error has been logged already.
        expected = replica.status is Status.RETIRING or (gone.code == 0 and replica.error is not None)
        level = log.info if expected else log.error
        who: dict[str, Any] = {"model": replica.name, "worker": gone.pid, "cause": cause, "device": replica.device}
        level("a worker ended", **who, oom_killed=self._was_oom(gone), stacks=stacks or None)
        # A SIGKILL that is not ours is most likely the OOM killer's; some containers hide its count.
        short = gone.code == -signal.SIGKILL and gone.pid not in self._killed
        self._killed.discard(gone.pid)
        self._act(self._fleet.exited(replica, cause, time.monotonic(), short, fault))

    def _on_waiting_exit(self, worker: WorkerProcess, gone: Exit) -> None:
        stacks = self._runtime.forget_worker(worker.row.index, worker.epoch)
        expected = gone.pid in self._killed or (worker.role is Role.PARKED and not worker.is_wanted)
        level = log.debug if expected else log.warning
        name = "a spare" if worker.role is Role.SPARE else "a parked worker"
        level(f"{name} ended", worker=gone.pid, device=worker.device, cause=str(gone), stacks=stacks or None)
        self._killed.discard(gone.pid)
        self._fleet.waiting_exited(worker, time.monotonic())

    def _on_look(self, look: Look) -> None:
        for xid in look.xids:
            log.warning("the driver reports an error of a GPU", device=xid.gpu, xid=xid.code)
        self._act(self._fleet.look(look, time.monotonic()))

    def _was_oom(self, gone: Exit) -> bool | None:
        """Return whether the OOM killer ended it: by a SIGKILL that is not ours, while its count has risen."""
        if gone.code != -signal.SIGKILL or gone.pid in self._killed:
            return None
        before, self._oom_kills = self._oom_kills, cgroup.oom_kills()
        return self._oom_kills > before

    # Actions.

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            self._carry_out(action)
        self._on_change()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start(replica):
                visible = self._devices.visible(replica.device, replica.deployment.model.gpus)
                self._fork(Fork(replica.row.index, replica.epoch, self._model_of(replica), visible=visible))
            case Assign(replica):
                self._assign(replica)
            case Spawn(spare):
                inside, visible = self._devices.inside(spare.device, "auto"), self._devices.visible(spare.device)
                self._fork(Fork(spare.row.index, spare.epoch, device=inside, visible=visible))
            case Dismiss(spare):
                self._kill(spare.pid)
            case Park(replica):
                self._control.park(replica.row.index, replica.epoch)
            case Discard(parked, at_once):
                if at_once or not self._control.retire(parked.row.index, parked.epoch):
                    self._kill(parked.pid)
            case Retire(replica):
                self._retire(replica)
            case Abort(replica, reason):
                self._abort(replica, reason)
            case Kill(replica):
                self._kill(replica.pid)
            case Publish(name):
                self._control.tell(self._placement(name))
            case Evicted(deployment, reason):
                log.info("evicting", model=deployment.name, bytes=deployment.memory(), reason=reason)
            case TakenOut(device, reason):
                log.error("a GPU is taken out", device=device, reason=reason)
            case GiveUp(reason):
                self._on_end(reason)
            case _:
                self._inform(action)

    def _inform(self, action: Settled | Gone | Learned) -> None:
        if self._catalog is None:
            return
        match action:
            case Settled(deployment, problem):
                self._catalog.on_settled(deployment, problem)
            case Gone(deployment):
                self._catalog.on_gone(deployment)
            case Learned(deployment):
                self._catalog.on_learned(deployment)

    def _model_of(self, replica: WorkerProcess) -> Model:
        """Return the replica's model with the device as its worker sees it."""
        model = replica.deployment.model
        return msgspec.structs.replace(model, device=self._devices.inside(replica.device, model.device))

    def _assign(self, replica: WorkerProcess) -> None:
        waiting = "a parked worker" if replica.taken_from is Role.PARKED else "a spare"
        log.info(f"{waiting} takes over", model=replica.name, worker=replica.pid, device=replica.device)
        if not self._control.assign(replica.row.index, replica.epoch, self._model_of(replica)):
            self._kill(replica.pid)  # it is ending; its end starts another worker

    def _kill(self, pid: int | None) -> None:
        if pid is not None:
            self._killed.add(pid)
            processes.kill_group(pid)

    def _retire(self, replica: WorkerProcess) -> None:
        """Ask a worker to exit. If it has not said hello yet, it is asked when it does."""
        self._control.retire(replica.row.index, replica.epoch)

    def _abort(self, replica: WorkerProcess, reason: str) -> None:
        log.error("ending a worker", model=replica.name, worker=replica.pid, reason=reason)
        if replica.pid is not None:
            self._killed.add(replica.pid)
            processes.abort(replica.pid)

    # Messages from other processes.

    def _placement(self, name: str) -> Placement:
        placement = self._fleet.state.placement(name)
        paths = [
            msgspec.structs.replace(address, path=str(self._runtime.worker_path(address.row, address.epoch)))
            for address in placement.replicas
        ]
        return msgspec.structs.replace(placement, replicas=paths)

    def locate(self, message: Locate) -> Placement | None:
        return self._placement(message.model) if self._catalog is None else self._catalog.locate(message)

    def ask(self, message: Ask, reply: Callable[[Answer], None]) -> None:
        if self._catalog is not None:
            self._catalog.ask(message, reply)

    def wants(self, row: int, epoch: int) -> bool:
        return self._fleet.workers.wants(row, epoch)

    def on_phase(self, message: WorkerPhase) -> None:
        now = time.monotonic()
        if message.phase == "spare":
            self._tell_of(self._fleet.spares.ready(message.row, message.epoch, now))
            return
        if message.phase == "parked":
            replica = self._fleet.workers.find(message.row, message.epoch, Role.SERVING)
            if replica is not None:
                held = replica.row.memory
                log.info("a worker is parked", model=replica.name, worker=replica.pid, bytes=held)
            self._act(self._fleet.parked(message.row, message.epoch, now))
            return
        if message.phase != "failed":
            progress = Progress(
                Status(message.phase), message.queue_size, message.device, message.batch_size, message.paths
            )
            self._act(self._fleet.progress(message.row, message.epoch, progress, now))
            return
        error = message.error or "unknown"
        log.error("a model failed to load", error=error, permanent=message.permanent)
        self._act(self._fleet.load_failed(message.row, message.epoch, error, message.permanent, message.out_of_memory))

    def _tell_of(self, spare: WorkerProcess | None) -> None:
        """Log that a spare is ready, once both its phase and its pid are known, in whichever order they arrive."""
        if spare is not None and spare.is_ready:
            log.info("a spare is ready", worker=spare.pid, device=spare.device)

    def on_cut(self, row: int, epoch: int) -> None:
        self._fleet.workers.cut(row, epoch, time.monotonic())

    def on_overdue(self, message: Overdue) -> None:
        self._fleet.workers.overdue(message.row, message.epoch, time.monotonic())
