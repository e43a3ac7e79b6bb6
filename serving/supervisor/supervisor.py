"""Supervisor: PID 1 of the container. Owns every child, decides through the Fleet, and alone kills processes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from serving.config.config import Config
from serving.errors import ModelError
from serving.ipc.messages import Forked
from serving.ipc.runtime import Runtime, become_subreaper
from serving.ipc.scoreboard import Header, Scoreboard, State
from serving.model.model import Model
from serving.supervisor import processes
from serving.supervisor.fleet.admission import check_memory
from serving.supervisor.fleet.pace import TICK
from serving.supervisor.forkserver import ForkServerLink
from serving.supervisor.lastwords import cannot_serve
from serving.supervisor.launch import Launched
from serving.supervisor.models import Models
from serving.supervisor.processes import Exit
from serving.supervisor.services import Service, bind
from serving.supervisor.store.diskcache import DiskCache
from serving.supervisor.store.repository import open_models
from serving.supervisor.store.unpacking import Stopped
from serving.supervisor.welcome import welcome
from serving.system import gpus, log
from serving.system.gpus.driver import Driver
from serving.system.signals import OTHERS, STOPS

FILES = 65536  # open files per process; many programs behave badly with a higher limit
FORK_TIME = 120.0  # seconds for the fork server to import torch and to fork; slow disks included
HTTP_TIME = 1.3  # seconds for the HTTP workers to close their connections and go
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors of a temporary folder that is full or read-only
CLOSE_TIME = 2.5  # seconds for the handlers' close() after the last response


class Supervisor:
    """The supervisor of one server. ``run`` serves until a signal or a failure and returns the exit code.

    ``models`` are served from the start; a server of many models has a ``disk`` cache instead. ``driver`` reports on
    GPUs. ``forks`` is a fork server that already runs.
    """

    def __init__(
        self,
        config: Config,
        models: Sequence[Model],
        listener: socket.socket,
        runtime: Runtime,
        driver: Driver,
        disk: DiskCache | None = None,
        forks: Launched | None = None,
    ) -> None:
        self._config = config
        self._listener = listener
        self._first = models[0] if models else None
        self._welcomed = not config.local
        self._runtime = runtime
        self._board = Scoreboard.create()
        self._forks = ForkServerLink(runtime, self._board, self._on_forked, self._on_fork_server, forks)
        self._models = Models(
            config,
            models,
            runtime,
            self._board,
            disk,
            driver,
            self._forks.fork,
            self._write_state,
            self._give_up,
        )
        self._fork_service = Service("fork server")
        self._http_service = Service("HTTP master")
        self._unclaimed: dict[int, Exit] = {}
        self._stopping = False
        self._signals = 0
        self._why = ""
        self._frontends = 0
        self._exit: asyncio.Future[int]
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._exit = loop.create_future()
        for number in STOPS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, self._on_signal, number)
        for number in OTHERS:
            loop.add_signal_handler(number, self._on_strange_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        try:
            await self._models.start()
            await self._start_forks()
            self._start_http()
            self._models.preload()
            ticker = loop.create_task(self._tick())
            code = await self._exit
            ticker.cancel()
            return code
        finally:
            await self._end_everything()
            if self._why:
                cannot_serve(self._why)

    # Ticks.

    async def _tick(self) -> None:
        while True:
            seconds = self._step()
            await asyncio.sleep(seconds)

    def _step(self) -> float:
        """Run one tick; returns the seconds until the next one is due."""
        try:
            now = time.monotonic()
            self._board.stamp_beat()
            self._look_after_services(now)
            self._models.tick(now)
            if self._fork_service.pid is not None and self._models.waits_for_fork(now, FORK_TIME):
                log.error("the fork server does not answer")
                processes.kill_group(self._fork_service.pid)
            return self._models.pause(now)
        except Exception as exc:
            log.error("the supervisor failed", exc=exc)
            self._finish(1)
            return TICK

    def _look_after_services(self, now: float) -> None:
        if self._models.frontends > self._frontends:
            self._http_service.serves(now)
        if self._forks.is_ready:
            self._fork_service.serves(now)

    def _write_state(self) -> None:
        now = time.monotonic()
        state, reason = self._state(now)
        old = self._board.read_header()
        ready, wanted, last_ready = self._models.counts()
        since = old.since if old.state == state and old.since else now
        self._board.write_header(Header(state, since, ready, wanted, last_ready, reason))
        if old.state != state:
            tell = log.error if state is State.FAILED else log.info
            tell(f"the server is {state.name.lower()}", reason=reason or None, replicas=ready)
            if state is State.READY and not self._welcomed:
                self._welcomed = True
                host, port = self._listener.getsockname()[:2]
                log.info(welcome(host, port, self._first))

    def _state(self, now: float) -> tuple[State, str]:
        if self._stopping:
            return State.DRAINING, ""
        return self._models.state(self._forks.is_ready, self._fork_service.failures > 0, now)

    def _on_forked(self, message: Forked) -> None:
        self._models.on_forked(message)
        gone = self._unclaimed.pop(message.pid, None)
        if not self._forks.owes:
            self._unclaimed.clear()
        # The pid may have been an orphan's before it became the worker's.
        if gone is not None and not processes.is_child(gone.pid):
            self._on_exit(gone)

    def _on_fork_server(self) -> None:
        assert self._forks.pid is not None
        try:
            self._models.on_fork_server(self._forks.pid)
        except ModelError as exc:
            self._give_up(str(exc))

    # Children.

    def _start_http(self) -> None:
        arguments = [str(self._runtime.path), str(self._listener.fileno()), str(self._board.fd)]
        pid = processes.spawn_module("serving.frontend.server", arguments, [self._listener.fileno(), self._board.fd])
        self._http_service.began(pid)
        self._frontends = self._models.frontends

    async def _start_forks(self) -> None:
        await self._forks.start()
        assert self._forks.pid is not None
        self._fork_service.began(self._forks.pid)
        self._reap()  # it may have ended before its pid was known here

    def _reap(self) -> None:
        for gone in processes.reap(lambda pid: self._models.worker(pid) is not None):
            self._on_exit(gone)

    def _on_exit(self, gone: Exit) -> None:
        replica = self._models.worker(gone.pid)
        if replica is not None:
            self._models.on_exit(replica, gone)
        elif gone.pid == self._http_service.pid:
            self._on_service_exit(self._http_service, gone)
        elif gone.pid == self._fork_service.pid:
            self._on_service_exit(self._fork_service, gone)
        elif self._forks.owes:  # it may be a worker whose pid has not been reported yet
            self._unclaimed[gone.pid] = gone

    def _on_service_exit(self, service: Service, gone: Exit) -> None:
        restart = service.ended(time.monotonic())
        self._wake.set()
        if self._stopping or self._exit.done():
            return
        log.error(f"the {service.name} ended", cause=str(gone))
        if not restart:
            self._give_up(f"the {service.name} ended {service.failures} times in a row")
        elif service is self._http_service:
            self._restart_http()
        else:
            task = asyncio.get_running_loop().create_task(self._restart_forks())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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
        self._models.on_fork_server_lost()

    # The end.

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("second signal: leaving now", signal=signal.Signals(number).name)
            self._finish(128 + number)
            return
        log.info("stopping", signal=signal.Signals(number).name)
        self._begin_to_stop(0)

    def _on_strange_signal(self, number: int) -> None:
        log.warning("a signal that means nothing here", signal=signal.Signals(number).name)

    def _give_up(self, why: str) -> None:
        """Stop with exit code 1, after the accepted requests, since the server cannot do its work any more."""
        self._why = self._why or why
        self._begin_to_stop(1)

    def _begin_to_stop(self, code: int) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._write_state()
        task = asyncio.get_running_loop().create_task(self._stop(code))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self, code: int) -> None:
        """Stop in order: the accepted requests, the HTTP workers, the handlers' close()."""
        give_up = time.monotonic() + self._config.drain_timeout
        await self._until(lambda: self._board.in_flight() == 0, give_up)
        left = self._board.in_flight()
        if left:
            log.error("the drain time is over", unanswered=left)
        self._board.give_up()
        if self._http_service.pid is not None:
            processes.send_signal(self._http_service.pid, signal.SIGTERM)
        # HTTP workers whose master has died exit by themselves.
        gone = lambda: self._http_service.pid is None and self._board.in_flight() == 0  # noqa: E731
        await self._until(gone, time.monotonic() + HTTP_TIME)
        self._listener.close()  # a refused client knows that nothing was accepted, unlike one that is cut off later
        self._models.retire()
        await self._until(lambda: self._models.are_gone, time.monotonic() + CLOSE_TIME)
        self._finish(code)

    async def _until(self, condition: Callable[[], bool], give_up: float) -> None:
        # Polls, since other processes write the state into shared memory, which cannot wake anyone.
        while not condition() and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(TICK)

    def _finish(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)

    async def _end_everything(self) -> None:
        """Kill and reap every child that still lives, and remove the runtime folder."""
        self._stopping = True
        self._forks.close()
        self._models.close()
        for pid in (self._http_service.pid, self._fork_service.pid, *self._models.pids()):
            if pid is not None:
                processes.kill_group(pid)
        self._reap()
        await self._until(
            lambda: self._http_service.pid is None and self._fork_service.pid is None, time.monotonic() + 1.0
        )
        self._runtime.remove()


def main(config: Config, driver: Driver | None = None, forks: Launched | None = None) -> int:
    """Serve until told to stop, and end the process; returns an exit code only if it cannot start. ``forks`` is a fork
    server that already runs.
    """
    log.setup("supervisor", config.log_level, config.log_format)
    for warning in config.warnings:
        log.warning(warning)
    driver = driver or gpus.find()
    try:
        check_memory(config)
        models, disk = open_models(config, [gpu.name for gpu in driver.gpus()])
    except Stopped:
        log.info("stopped before there was anything to stop")
        return 0
    except ModelError as exc:
        cannot_serve(str(exc))
        return 1
    except OSError as exc:
        return no_room(exc)
    try:
        listener = bind(config.host, config.port)
    except OSError as exc:
        cannot_serve(f"cannot listen on {config.host}:{config.port}: {os.strerror(exc.errno or 0)}")
        return 1
    host, port = listener.getsockname()[:2]
    try:
        Runtime.sweep()
        runtime = Runtime.create(config, host, port)
        supervisor = Supervisor(config, models, listener, runtime, driver, disk, forks)
    except OSError as exc:
        return no_room(exc)
    become_subreaper()
    processes.raise_file_limit(FILES)
    what = {"model": models[0].name, "handler": models[0].handler} if models else {"store": config.store}
    log.info("listening", host=host, port=port, **what)
    asyncio.run(live(supervisor))
    raise AssertionError("a supervisor ends its process")


def no_room(exc: OSError) -> int:
    """Log one line and return the exit code: everything that a start writes is below the temporary folder."""
    place = exc.filename or tempfile.tempdir
    cannot_serve(f"{exc.strerror or exc}{f': {place}' if place else ''}")
    return 1


async def live(supervisor: Supervisor) -> NoReturn:
    code = 1
    try:
        code = await supervisor.run()
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno in DISK:
            no_room(exc)
        else:
            log.error("the supervisor failed", exc=exc)
    finally:
        # A regular exit would wait for threads, and one that unpacks an archive may take minutes.
        os._exit(code)
