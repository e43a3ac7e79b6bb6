"""Supervisor: PID 1 of the container. Owns every child, decides through the Fleet, and alone kills processes."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable

from serving.ipc.messages import Fork
from serving.ipc.scoreboard import Header, State
from serving.supervisor import processes
from serving.supervisor.announcements import cannot_serve, welcome
from serving.supervisor.background import Background
from serving.supervisor.children import Children
from serving.supervisor.dispatcher import Dispatcher
from serving.supervisor.fleet.describe import counts
from serving.supervisor.fleet.pace import TICK, pause
from serving.supervisor.launch import Launched
from serving.supervisor.setup import Setup
from serving.system import log
from serving.system.signals import OTHERS, STOPS

HTTP_TIME = 1.3  # seconds for the HTTP workers to close their connections and go
CLOSE_TIME = 2.5  # seconds for the handlers' close() after the last response


class Supervisor:
    """The supervisor of one server. ``run`` serves until a signal or a failure and returns the exit code.

    ``forks`` is a fork server that already runs.
    """

    def __init__(self, setup: Setup, listener: socket.socket, forks: Launched | None = None) -> None:
        self._config, self._runtime, self._board = setup.config, setup.runtime, setup.board
        self._listener = listener
        self._first = setup.models[0] if setup.models else None
        self._welcomed = not setup.config.local
        self._models = Dispatcher(setup, self._fork, self._write_state, self._give_up)
        self._children = Children(setup, self._models, listener, self._give_up, forks)
        self._stopping = False
        self._signals = 0
        self._why = ""
        self._exit: asyncio.Future[int]
        self._background = Background()

    def _fork(self, request: Fork) -> None:
        self._children.fork(request)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._exit = loop.create_future()
        for number in STOPS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, self._on_signal, number)
        for number in OTHERS:
            loop.add_signal_handler(number, self._on_strange_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._children.reap)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        try:
            await self._models.start()
            await self._children.start()
            self._models.source.preload()
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
            self._models.tick(now)
            self._children.tick(now)
            return pause(self._models.state.everything(), now)
        except Exception as exc:
            log.error("the supervisor failed", exc=exc)
            self._finish(1)
            return TICK

    def _write_state(self) -> None:
        now = time.monotonic()
        state, reason = self._state()
        old = self._board.read_header()
        ready, wanted, last_ready = counts(self._models.state.everything())
        since = old.since if old.state == state and old.since else now
        self._board.write_header(Header(state, since, ready, wanted, last_ready, reason))
        if old.state != state:
            write = log.error if state is State.FAILED else log.info
            write(f"the server is {state.name.lower()}", reason=reason or None, replicas=ready)
            if state is State.READY and not self._welcomed:
                self._welcomed = True
                host, port = self._listener.getsockname()[:2]
                log.info(welcome(host, port, self._first))

    def _state(self) -> tuple[State, str]:
        if self._stopping:
            return State.DRAINING, ""
        return self._models.source.state(self._children.can_fork, self._children.fork_server_has_failed)

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
        self._children.restart_no_more()
        self._write_state()
        self._background.spawn(self._stop(code))

    async def _stop(self, code: int) -> None:
        """Stop in order: the accepted requests, the HTTP workers, the handlers' close()."""
        give_up = time.monotonic() + self._config.drain_timeout
        await self._until(lambda: self._board.in_flight() == 0, give_up)
        left = self._board.in_flight()
        if left:
            log.error("the drain time is over", unanswered=left)
        self._board.give_up()
        if self._children.http_master is not None:
            processes.send_signal(self._children.http_master, signal.SIGTERM)
        # HTTP workers whose master has died exit by themselves.
        gone = lambda: self._children.http_master is None and self._board.in_flight() == 0  # noqa: E731
        await self._until(gone, time.monotonic() + HTTP_TIME)
        self._listener.close()  # a refused client knows that nothing was accepted, unlike one that is cut off later
        self._models.retire()
        await self._until(lambda: self._models.workers.is_empty, time.monotonic() + CLOSE_TIME)
        self._finish(code)

    async def _until(self, condition: Callable[[], bool], give_up: float) -> None:
        # Polls, since other processes write the state into shared memory, which cannot wake anyone.
        while not condition() and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(TICK)

    def _finish(self, code: int) -> None:
        self._children.restart_no_more()
        if not self._exit.done():
            self._exit.set_result(code)

    async def _end_everything(self) -> None:
        """Kill and reap every child that still lives, and remove the runtime folder."""
        self._stopping = True
        self._children.restart_no_more()
        self._models.close()
        self._children.kill()
        await self._until(lambda: self._children.services_are_gone, time.monotonic() + 1.0)
        self._runtime.remove()
