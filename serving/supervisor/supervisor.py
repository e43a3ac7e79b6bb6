"""Supervisor: PID 1 of the container. Owns every child, decides through the Fleet, and is the only one that kills."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from serving import log
from serving.config import Config
from serving.errors import ModelError
from serving.messages import Fork, Forked, Overdue, Placement, WorkerPhase
from serving.model import Model
from serving.runtime import Runtime, become_subreaper
from serving.scoreboard import Header, Scoreboard, State
from serving.supervisor import processes
from serving.supervisor.control import Control
from serving.supervisor.fleet import Abort, Action, Fleet, GiveUp, Kill, Publish, Replica, Start, Status
from serving.supervisor.forkserver import ForkServerLink
from serving.supervisor.processes import Exit
from serving.supervisor.repository import find_model
from serving.supervisor.services import Service, bind

TICK = 0.02  # seconds between looks at the scoreboard
FORK_TIME = 120.0  # seconds for the fork server to import torch and to fork; slow disks included
HTTP_TIME = 1.3  # seconds for the HTTP workers to close their connections and go
CLOSE_TIME = 2.5  # seconds for the handlers' close() after the last answer


class Supervisor:
    """``run`` serves until a signal or a failure and gives the exit code."""

    def __init__(self, config: Config, models: Sequence[Model], listener: socket.socket, runtime: Runtime) -> None:
        self._config = config
        self._listener = listener
        self._runtime = runtime
        self._board = Scoreboard.create()
        self._fleet = Fleet(self._board, config.load_timeout)
        for model in models:
            self._fleet.add(model)
        self._models = {model.name: model for model in models}
        self._control = Control(runtime, self._board, self._locate, self._on_phase, self._on_overdue, self._fleet.knows)
        self._forks = ForkServerLink(runtime, self._board, self._on_forked)
        self._fork_service = Service("fork server")
        self._http_service = Service("HTTP master")
        self._unclaimed: dict[int, Exit] = {}
        self._killed: set[int] = set()
        self._oom_kills = processes.oom_kills()
        self._stopping = False
        self._signals = 0
        self._exit: asyncio.Future[int]
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._exit = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            await self._control.start()
            self._start_http()
            await self._start_forks()
            ticker = loop.create_task(self._tick())
            code = await self._exit
            ticker.cancel()
            return code
        finally:
            await self._end_everything()

    # What time brings.

    async def _tick(self) -> None:
        while True:
            self._step()
            await asyncio.sleep(TICK)

    def _step(self) -> None:
        try:
            now = time.monotonic()
            self._act(self._fleet.tick(now))
            if self._fork_service.pid is not None and self._fleet.waits_for_fork(now, FORK_TIME):
                log.error("the fork server does not answer")
                processes.kill_group(self._fork_service.pid)
        except Exception as exc:
            log.error("the supervisor failed", exc=exc)
            self._finish(1)

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(replica):
                    self._forks.fork(Fork(replica.row.index, replica.epoch, self._models[replica.model]))
                case Abort(replica, reason):
                    self._abort(replica, reason)
                case Kill(replica):
                    if replica.pid is not None:
                        processes.kill_group(replica.pid)
                case Publish(model):
                    self._control.publish(model)
                case GiveUp(reason):
                    log.error(f"cannot serve: {reason}")
                    self._finish(1)
        self._write_state()

    def _abort(self, replica: Replica, reason: str) -> None:
        log.error("ending a worker", model=replica.model, worker=replica.pid, reason=reason)
        if replica.pid is not None:
            self._killed.add(replica.pid)
            processes.abort(replica.pid)

    def _write_state(self) -> None:
        now = time.monotonic()
        state, reason = (State.DRAINING, "") if self._stopping else self._fleet.state(now)
        old = self._board.read_header()
        ready, wanted, last_ready = self._fleet.counts()
        since = old.since if old.state == state and old.since else now
        self._board.write_header(Header(state, since, ready, wanted, last_ready, reason))
        if old.state != state:
            log.info(f"the server is {state.name.lower()}", reason=reason or None, replicas=ready)

    # What others say.

    def _locate(self, name: str) -> Placement:
        placement = self._fleet.placement(name)
        if placement is None:
            return Placement(name, [], self._config.request_timeout, self._config.queue_size, failed="no such model")
        paths = [
            msgspec.structs.replace(address, path=str(self._runtime.worker_path(address.row, address.epoch)))
            for address in placement.replicas
        ]
        return msgspec.structs.replace(placement, replicas=paths)

    def _on_phase(self, message: WorkerPhase) -> None:
        if message.phase == "failed":
            error = message.error or "unknown"
            log.error("a model failed to load", error=error, permanent=message.permanent)
            self._act(self._fleet.load_failed(message.row, message.epoch, error, message.permanent))
        else:
            now = time.monotonic()
            status = Status(message.phase)
            self._act(self._fleet.phase(message.row, message.epoch, status, message.queue_size, now))

    def _on_overdue(self, message: Overdue) -> None:
        self._fleet.overdue(message.row, message.epoch, time.monotonic())

    def _on_forked(self, message: Forked) -> None:
        self._fleet.forked(message.row, message.epoch, message.pid)
        gone = self._unclaimed.pop(message.pid, None)
        if gone is not None:
            self._on_exit(gone)

    # Children.

    def _start_http(self) -> None:
        arguments = [str(self._runtime.path), str(self._listener.fileno()), str(self._board.fd)]
        pid = processes.spawn_module("serving.frontend.server", arguments, [self._listener.fileno(), self._board.fd])
        self._http_service.began(pid, time.monotonic())

    async def _start_forks(self) -> None:
        await self._forks.start()
        assert self._forks.pid is not None
        self._fork_service.began(self._forks.pid, time.monotonic())

    def _reap(self) -> None:
        for gone in processes.reap(lambda pid: self._fleet.by_pid(pid) is not None):
            self._on_exit(gone)

    def _on_exit(self, gone: Exit) -> None:
        replica = self._fleet.by_pid(gone.pid)
        if replica is not None:
            self._on_worker_exit(replica, gone)
        elif gone.pid == self._http_service.pid:
            self._on_service_exit(self._http_service, gone)
        elif gone.pid == self._fork_service.pid:
            self._on_service_exit(self._fork_service, gone)
        else:
            self._unclaimed[gone.pid] = gone
            while len(self._unclaimed) > 256:  # strangers' orphans that nobody will ask for
                self._unclaimed.pop(next(iter(self._unclaimed)))

    def _on_worker_exit(self, replica: Replica, gone: Exit) -> None:
        stacks = self._runtime.forget_worker(replica.row.index, replica.epoch)
        level = log.info if replica.status is Status.RETIRING else log.error
        level(
            "a worker ended",
            model=replica.model,
            worker=gone.pid,
            cause=str(gone),
            oom_killed=self._was_oom(gone),
            stacks=stacks or None,
        )
        self._killed.discard(gone.pid)
        self._act(self._fleet.exited(replica, str(gone), time.monotonic()))

    def _was_oom(self, gone: Exit) -> bool | None:
        """Whether the kernel's OOM killer did it: a SIGKILL that is not ours, and its count has risen."""
        if gone.code != -signal.SIGKILL or gone.pid in self._killed:
            return None
        count, before = processes.oom_kills(), self._oom_kills
        self._oom_kills = count
        return count > before

    def _on_service_exit(self, service: Service, gone: Exit) -> None:
        restart = service.ended(time.monotonic())
        self._wake.set()
        if self._stopping or self._exit.done():
            return
        log.error(f"the {service.name} ended", cause=str(gone))
        if not restart:
            log.error(f"cannot serve: the {service.name} ended {service.failures} times in a row")
            self._finish(1)
        elif service is self._http_service:
            self._start_http()
        else:
            task = asyncio.get_running_loop().create_task(self._restart_forks())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _restart_forks(self) -> None:
        # What the dead one may or may not have carried out is given up, and asked for anew.
        await self._start_forks()
        for replica in self._fleet.replicas():
            if replica.pid is None:
                self._act(self._fleet.exited(replica, "the fork server ended", time.monotonic()))

    # The end.

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("second signal: leaving now", signal=signal.Signals(number).name)
            self._finish(128 + number)
            return
        log.info("stopping", signal=signal.Signals(number).name)
        self._stopping = True
        self._write_state()
        task = asyncio.get_running_loop().create_task(self._stop())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        """First the requests that were accepted, then the HTTP workers, then the handlers' close()."""
        give_up = time.monotonic() + self._config.drain_timeout
        await self._until(lambda: self._board.in_flight() == 0, give_up)
        left = self._board.in_flight()
        if left:
            log.error("the drain time is over", unanswered=left)
        if self._http_service.pid is not None:
            processes.send_signal(self._http_service.pid, signal.SIGTERM)
        await self._until(lambda: self._http_service.pid is None, time.monotonic() + HTTP_TIME)
        for replica in self._fleet.retire(time.monotonic()):
            if not self._control.retire(replica.row.index, replica.epoch) and replica.pid is not None:
                processes.kill_group(replica.pid)
        await self._until(lambda: not self._fleet.replicas(), time.monotonic() + CLOSE_TIME)
        self._finish(0)

    async def _until(self, condition: Callable[[], bool], give_up: float) -> None:
        # What is awaited is written by other processes into shared memory, which cannot wake anyone.
        while not condition() and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(TICK)

    def _finish(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)

    async def _end_everything(self) -> None:
        """Whatever still lives is killed and reaped, and the runtime folder goes."""
        self._stopping = True
        self._forks.close()
        self._control.close()
        for pid in (self._http_service.pid, self._fork_service.pid, *(one.pid for one in self._fleet.replicas())):
            if pid is not None:
                processes.kill_group(pid)
        self._reap()
        await self._until(
            lambda: self._http_service.pid is None and self._fork_service.pid is None, time.monotonic() + 1.0
        )
        self._runtime.remove()


def main(config: Config) -> int:
    """Serve until told to stop; gives the exit code of the container."""
    log.setup("supervisor", config.log_level, config.log_format)
    for warning in config.warnings:
        log.warning(warning)
    try:
        models = [find_model(config)]
        listener = bind(config.host, config.port)
    except ModelError as exc:
        log.error(f"cannot serve: {exc}")
        return 1
    except OSError as exc:
        log.error(f"cannot listen on {config.host}:{config.port}: {os.strerror(exc.errno or 0)}")
        return 1
    Runtime.sweep()
    runtime = Runtime.create(config)
    become_subreaper()
    host, port = listener.getsockname()[:2]
    log.info("listening", host=host, port=port, model=models[0].name, handler=models[0].handler)
    return asyncio.run(Supervisor(config, models, listener, runtime).run())
