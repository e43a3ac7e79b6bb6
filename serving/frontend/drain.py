"""Drain: the end of an HTTP worker. Accepted requests are answered first; those left at the end get a 503."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

from uvicorn.config import Config
from uvicorn.server import Server

from serving.system import log

LOOK = 0.05  # seconds between checks whether all requests are answered
LAST_WORDS = 0.5  # seconds to send the last responses


class HttpServer(Server):
    """Uvicorn's server, for which every signal means: accept nothing more, finish accepted requests, and exit.

    ``in_flight`` returns the number of requests that are not answered, ``must_end`` whether the time for draining is
    over for the whole server, and ``seconds`` bounds the draining of this worker.
    """

    def __init__(
        self, config: Config, in_flight: Callable[[], int], must_end: Callable[[], bool], seconds: float
    ) -> None:
        super().__init__(config)
        self._in_flight = in_flight
        self._must_end = must_end
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True  # a second signal changes nothing, and none is raised again at the end

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second, and write how many log lines were left out."""
        log.write_left_out()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for one in sockets or []:
            one.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._settles(self._seconds, self._must_end):
            self._give_up()
            await self._settles(LAST_WORDS, lambda: False)
        await super().shutdown(sockets)

    async def _settles(self, seconds: float, must_end: Callable[[], bool]) -> bool:
        """Wait until all requests are answered. Returns False if ``seconds`` pass or ``must_end`` returns true before
        that.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._in_flight():
            if loop.time() >= until or must_end():
                return False
            if self.config.callback_notify is not None:  # otherwise the master takes this process for a hung one
                await self.config.callback_notify()
            await asyncio.sleep(LOOK)
        return True

    def _give_up(self) -> None:
        """Answer every remaining request with the error that the server stops."""
        for connection in list(self.server_state.connections):
            if (give_up := getattr(connection, "give_up", None)) is not None:
                give_up()
        loop = asyncio.get_running_loop()
        for task in list(self.server_state.tasks):
            loop.call_soon(task.cancel)  # not now: a task that has not begun would never run, so never answer
