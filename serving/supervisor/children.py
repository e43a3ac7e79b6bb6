"""Children: starts the HTTP master and the fork server, again where they end, and hears of the end of every process."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from serving.errors import ModelError
from serving.ipc.messages import Fork, Forked
from serving.supervisor import processes
from serving.supervisor.background import Background
from serving.supervisor.dispatcher import Dispatcher
from serving.supervisor.forkserver import ForkServerLink
from serving.supervisor.launch import Launched
from serving.supervisor.processes import Exit
from serving.supervisor.services import Service
from serving.supervisor.setup import Setup
from serving.system import log

FORK_TIME = 120.0  # seconds for the fork server to import torch and to fork; slow disks included


class Children:
    """The supervisor's child processes. ``models`` is told of forks, and of the ends of workers; ``give_up`` is called
    with the reason when a service cannot go on. ``first`` is a fork server that already runs.
    """

    def __init__(
        self,
        setup: Setup,
        models: Dispatcher,
        listener: socket.socket,
        give_up: Callable[[str], None],
        first: Launched | None = None,
    ) -> None:
        self._runtime, self._board = setup.runtime, setup.board
        self._models = models
        self._listener = listener
        self._give_up = give_up
        self._forks = ForkServerLink(setup.runtime, setup.board, self._on_forked, self._on_fork_server, first)
        self._fork_service = Service("fork server")
        self._http_service = Service("HTTP master")
        self._frontends = 0
        self._unclaimed: dict[int, Exit] = {}
        self._restarts = True
        self._background = Background()

    async def start(self) -> None:
        """Start both services. Raises OSError."""
        await self._start_forks()
        self._start_http()

    def fork(self, request: Fork) -> None:
        """Ask the fork server for a worker."""
        self._forks.fork(request)

    @property
    def can_fork(self) -> bool:
        return self._forks.is_ready

    @property
    def fork_server_has_failed(self) -> bool:
        return self._fork_service.failures > 0

    @property
    def http_master(self) -> int | None:
        """The pid of the HTTP master while it runs."""
        return self._http_service.pid

    def tick(self, now: float) -> None:
        """Record which services do their work, and end a fork server that does not answer."""
        if self._models.control.frontends > self._frontends:
            self._http_service.serves(now)
        if self._forks.is_ready:
            self._fork_service.serves(now)
        if self._fork_service.pid is not None and self._models.workers.waits_for_fork(now, FORK_TIME):
            log.error("the fork server does not answer")
            processes.kill_group(self._fork_service.pid)

    # Starts.

    def _start_http(self) -> None:
        arguments = [str(self._runtime.path), str(self._listener.fileno()), str(self._board.fd)]
        pid = processes.spawn_module("serving.frontend.server", arguments, [self._listener.fileno(), self._board.fd])
        self._http_service.began(pid)
        self._frontends = self._models.control.frontends

    async def _start_forks(self) -> None:
        await self._forks.start()
        assert self._forks.pid is not None
        self._fork_service.began(self._forks.pid)
        self.reap()  # it may have ended before its pid was known here

    def _restart_http(self) -> None:
        try:
            self._start_http()
        except OSError as exc:
            self._give_up(f"the HTTP master cannot be started: {exc}")

    async def _restart_forks(self) -> None:
        try:
            await self._start_forks()
        except OSError as exc:
            self._give_up(f"the fork server cannot be started: {exc}")
            return
        self._models.reports.on_fork_server_lost()

    def _on_fork_server(self) -> None:
        assert self._forks.pid is not None
        try:
            self._models.source.on_fork_server(self._forks.pid)
        except ModelError as exc:
            self._give_up(str(exc))

    def _on_forked(self, message: Forked) -> None:
        self._models.reports.on_forked(message)
        gone = self._unclaimed.pop(message.pid, None)
        if not self._forks.owes:
            self._unclaimed.clear()
        # The pid may have been an orphan's before it became the worker's.
        if gone is not None and not processes.is_child(gone.pid):
            self._on_exit(gone)

    # Ends.

    def reap(self) -> None:
        for gone in processes.reap(lambda pid: self._models.workers.by_pid(pid) is not None):
            self._on_exit(gone)

    def _on_exit(self, gone: Exit) -> None:
        worker = self._models.workers.by_pid(gone.pid)
        if worker is not None:
            self._models.exits.on_exit(worker, gone)
        elif gone.pid == self._http_service.pid:
            self._on_service_exit(self._http_service, gone)
        elif gone.pid == self._fork_service.pid:
            self._on_service_exit(self._fork_service, gone)
        elif self._forks.owes:  # it may be a worker whose pid has not been reported yet
            self._unclaimed[gone.pid] = gone

    def _on_service_exit(self, service: Service, gone: Exit) -> None:
        restart = service.ended(time.monotonic())
        if not self._restarts:
            return
        log.error(f"the {service.name} ended", cause=str(gone))
        self._models.counts.restarted(service.name.lower().replace(" ", "_"))
        if not restart:
            self._give_up(f"the {service.name} ended {service.failures} times in a row")
        elif service is self._http_service:
            self._restart_http()
        else:
            self._background.spawn(self._restart_forks())

    def restart_no_more(self) -> None:
        """From now on the end of a service is expected."""
        self._restarts = False

    def kill(self) -> None:
        """Kill and reap every child that still lives."""
        self._forks.close()
        for pid in (self._http_service.pid, self._fork_service.pid, *self._models.workers.pids()):
            if pid is not None:
                processes.kill_group(pid)
        self.reap()

    @property
    def services_are_gone(self) -> bool:
        return self._http_service.pid is None and self._fork_service.pid is None
