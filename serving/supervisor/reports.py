"""Reports: what HTTP workers ask, and what workers, the fork server and the GPUs report, passed on to the fleet."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.ipc.messages import Forked, Locate, ModelsCall, ModelsReply, Overdue, Placement, WorkerPhase
from serving.supervisor.executor import Executor
from serving.supervisor.fleet.deployment import Role, Status, WorkerProcess
from serving.supervisor.fleet.devices import Look
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.fleet.workerreports import Progress
from serving.supervisor.source import ModelSource
from serving.supervisor.watch.counts import SupervisorCounts
from serving.system import log


class Reports:
    """The receiver of all reports; a ControlHandler. ``retire`` asks a worker to finish and exit."""

    def __init__(
        self,
        fleet: Fleet,
        executor: Executor,
        source: ModelSource,
        retire: Callable[[int, int], bool],
        counts: SupervisorCounts,
    ) -> None:
        self._fleet = fleet
        self._executor = executor
        self._source = source
        self._retire = retire
        self._counts = counts

    # HTTP workers.

    def locate(self, message: Locate) -> Placement | None:
        return self._source.locate(message)

    def ask(self, message: ModelsCall, reply: Callable[[ModelsReply], None]) -> None:
        self._source.ask(message, reply)

    def on_overdue(self, message: Overdue) -> None:
        self._fleet.workers.overdue(message.row, message.epoch, time.monotonic())

    # Model workers.

    def wants(self, row: int, epoch: int) -> bool:
        return self._fleet.workers.wants(row, epoch)

    def on_cut(self, row: int, epoch: int) -> None:
        self._fleet.workers.cut(row, epoch, time.monotonic())

    def on_phase(self, message: WorkerPhase) -> None:
        now, key = time.monotonic(), (message.row, message.epoch)
        self._count(message, now)
        match message.phase:
            case "spare":
                self._tell_of(self._fleet.spares.ready(*key, now))
            case "parked":
                replica = self._fleet.workers.find(*key, Role.SERVING)
                if replica is not None:
                    held = replica.row.memory
                    log.info("a worker is parked", model=replica.name, worker=replica.pid, bytes=held)
                self._executor.act(self._fleet.parked(*key, now))
            case "failed":
                error = message.error or "unknown"
                log.error("a model failed to load", error=error, permanent=message.permanent)
                self._executor.act(self._fleet.load_failed(*key, error, message.permanent, message.out_of_memory))
            case phase:
                progress = Progress(
                    Status(phase), message.queue_size, message.device, message.batch_size, message.paths
                )
                self._executor.act(self._fleet.progress(*key, progress, now))

    def _count(self, message: WorkerPhase, now: float) -> None:
        replica = self._fleet.workers.find(message.row, message.epoch, Role.SERVING)
        if replica is not None and message.phase == Status.READY.value:
            self._counts.loaded(replica, now)
        elif replica is not None and message.phase == "failed":
            self._counts.load_failed(replica)

    def _tell_of(self, spare: WorkerProcess | None) -> None:
        """Log that a spare is ready, once both its phase and its pid are known, in whichever order they arrive."""
        if spare is not None and spare.is_ready:
            log.info("a spare is ready", worker=spare.pid, device=spare.device)

    # The fork server.

    def on_forked(self, message: Forked) -> None:
        key = message.row, message.epoch
        if not message.pid:
            self._on_failed_fork(self._fleet.workers.find(*key))
            return
        worker = self._fleet.workers.forked(*key, message.pid)
        if worker is None:
            return
        if worker.role is Role.SERVING:
            log.info("a worker begins", model=worker.name, worker=message.pid, device=worker.device)
            return
        if not worker.is_wanted:
            self._executor.kill(message.pid)  # it was dismissed before it was forked
        self._tell_of(worker)

    def _on_failed_fork(self, worker: WorkerProcess | None) -> None:
        now = time.monotonic()
        if worker is not None and worker.role is Role.SPARE:
            self._fleet.spares.exited(worker, now)
        elif worker is not None:
            log.error("no process could be made for a worker", model=worker.name)
            self._executor.act(self._fleet.exited(worker, "no process could be made", now, out_of_memory=True))

    def on_fork_server_lost(self) -> None:
        """Give up the forks that a dead fork server may or may not have carried out, and ask for them again."""
        for replica in self._fleet.workers.of(Role.SERVING):
            if replica.pid is None:
                # The worker may live, and have said hello, although its fork was never reported.
                self._retire(replica.row.index, replica.epoch)
                self._executor.act(self._fleet.lost(replica, "the fork server ended", time.monotonic()))
        for spare in self._fleet.spares.all():
            if spare.pid is None:
                self._fleet.spares.exited(spare, time.monotonic())

    # GPUs.

    def on_look(self, look: Look) -> None:
        for xid in look.xids:
            self._counts.xid(xid.gpu, xid.code)
            log.warning("the driver reports an error of a GPU", device=xid.gpu, xid=xid.code)
        self._executor.act(self._fleet.look(look, time.monotonic()))
