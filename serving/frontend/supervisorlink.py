"""SupervisorLink: the connection of this HTTP worker to the supervisor."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Callable

from serving.errors import Unavailable
from serving.ipc.channel import Channel
from serving.ipc.messages import (
    FrontendHello,
    FrontendWelcome,
    Locate,
    Message,
    ModelsCall,
    ModelsReply,
    Placement,
    pack,
    unpack,
)
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.ipc.wire import Frame
from serving.system import log

START_TIME = 10.0  # seconds for the supervisor to reply at the start


class SupervisorLink:
    """The connection of this HTTP worker to the supervisor; when it is lost the worker stops.

    ``on_placement`` is called with the placement of each model that this worker asked for.
    """

    def __init__(self, runtime: Runtime, board: Scoreboard, on_placement: Callable[[Placement], None]) -> None:
        self._runtime = runtime
        self._board = board
        self._on_placement = on_placement
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[ModelsReply]] = {}
        self._closing = False
        self.is_lost = False
        """Whether the supervisor is gone."""
        self._channel: Channel
        self._slot: asyncio.Future[Slot]

    async def start(self) -> Slot:
        loop = asyncio.get_running_loop()
        self._slot = loop.create_future()
        path = str(self._runtime.control_path)
        async with asyncio.timeout(START_TIME):
            _, self._channel = await loop.create_unix_connection(lambda: Channel(self), path)
            self.send(FrontendHello(os.getpid()))
            return await self._slot

    def close(self) -> None:
        self._closing = True
        self._channel.close()

    def send(self, message: Message) -> None:
        self._channel.send_raw([pack(message)])

    def locate(self, model: str, load: bool, until: float) -> None:
        self.send(Locate(model, load, until))

    async def ask(self, make: Callable[[int], ModelsCall], seconds: float) -> ModelsReply:
        """Send ``make(id)`` and return the reply. Raises the ServingError in it, or Unavailable after ``seconds``."""
        id = next(self._ids)
        future: asyncio.Future[ModelsReply] = asyncio.get_running_loop().create_future()
        self._replies[id] = future
        self.send(make(id))
        try:
            async with asyncio.timeout(seconds):
                reply = await future
        except TimeoutError:
            raise Unavailable("this takes longer than a call may; it goes on") from None
        finally:
            del self._replies[id]
        if reply.problem is not None:
            raise reply.problem.error()
        return reply

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        message = unpack(frame.body)
        if isinstance(message, Placement):
            self._on_placement(message)
        elif isinstance(message, ModelsReply):
            future = self._replies.get(message.id)
            if future is not None and not future.done():
                future.set_result(message)
        elif isinstance(message, FrontendWelcome) and not self._slot.done():
            self._slot.set_result(self._board.slot(message.slot))

    def on_lost(self, channel: Channel) -> None:
        if not self._closing:
            self.is_lost = True
            log.error("the supervisor is gone")
            os.kill(os.getpid(), signal.SIGTERM)
