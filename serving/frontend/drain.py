"""Drain: how an HTTP worker ends. What it has accepted is answered first; what cannot be any more is told so."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

from uvicorn.config import Config
from uvicorn.server import Server

LOOK = 0.05  # seconds between looks at whether all is answered
LAST_WORDS = 0.5  # seconds for what is told at the end to leave


class HttpServer(Server):
    """Uvicorn's, whose signals all mean the same: take nothing more, finish what was accepted, and go.

    ``in_flight`` counts what is not answered, ``must_end`` says that the time to finish is over for the whole server,
    and ``seconds`` are the most that this takes while it is not.
    """

    def __init__(
        self, config: Config, in_flight: Callable[[], int], must_end: Callable[[], bool], seconds: float
    ) -> None:
        super().__init__(config)
        self._in_flight = in_flight
        self._must_end = must_end
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True  # a second one changes nothing, and none is raised again at the end

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
        """Whether all is answered before the time is over or ``must_end``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._in_flight():
            if loop.time() >= until or must_end():
                return False
            if self.config.callback_notify is not None:  # or the master takes this process for one that hangs
                await self.config.callback_notify()
            await asyncio.sleep(LOOK)
        return True

    def _give_up(self) -> None:
        """Have all that is left answered by saying that the server stops."""
        for connection in list(self.server_state.connections):
            if (give_up := getattr(connection, "give_up", None)) is not None:
                give_up()
        loop = asyncio.get_running_loop()
        for task in list(self.server_state.tasks):
            loop.call_soon(task.cancel)  # not now: one that has not begun yet would never run, and answer nobody
