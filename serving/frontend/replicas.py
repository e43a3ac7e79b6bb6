"""Replicas: what this HTTP worker knows of models and where they live, and its connections to them."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field

from serving import log
from serving.channel import Channel
from serving.errors import ModelFailed, QueueFull
from serving.frontend import router
from serving.frontend.connection import Connection
from serving.handler import MAX_BATCH
from serving.messages import Address, FrontendHello, FrontendWelcome, Locate, Message, Overdue, Placement, pack, unpack
from serving.runtime import Runtime
from serving.scoreboard import Scoreboard, Slot
from serving.wire import Frame

START_TIME = 10.0  # seconds for the supervisor to answer at the start


@dataclass(slots=True, eq=False)
class View:
    """One model as seen from here."""

    placement: Placement
    connections: dict[tuple[int, int], Connection] = field(default_factory=dict)
    waiters: set[asyncio.Future[None]] = field(default_factory=set)

    def usable(self) -> list[Connection]:
        return [connection for connection in self.connections.values() if connection.is_usable]

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class Replicas:
    def __init__(self, runtime: Runtime, board: Scoreboard) -> None:
        self._runtime = runtime
        self._board = board
        self._views: dict[str, View] = {}
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self, model: str) -> Slot:
        """Say hello to the supervisor and learn where ``model`` is; gives this worker's slot of the scoreboard."""
        loop = asyncio.get_running_loop()
        self._slot: asyncio.Future[Slot] = loop.create_future()
        self._first: asyncio.Future[None] = loop.create_future()
        _, self._control = await loop.create_unix_connection(lambda: Channel(self), str(self._runtime.control_path))
        self._say(FrontendHello(os.getpid()))
        self._say(Locate(model))
        async with asyncio.timeout(START_TIME):
            await self._first
            return await self._slot

    def close(self) -> None:
        self._closing = True
        for view in self._views.values():
            for connection in view.connections.values():
                connection.close()
        self._control.close()

    def placement(self, model: str) -> Placement:
        return self._views[model].placement

    async def pick(self, model: str) -> Connection:
        """A replica that takes requests; waits for one. Raises QueueFull or ModelFailed; the caller bounds the wait."""
        view = self._views[model]
        while True:
            usable = view.usable()
            if usable:
                return self._choose(view, usable)
            if view.placement.failed is not None:
                raise ModelFailed(f"the model is not served: {view.placement.failed}")
            if len(view.waiters) >= view.placement.queue_size:
                raise QueueFull(f"{len(view.waiters)} requests are waiting for a replica already")
            await self._wait(view)

    def _choose(self, view: View, usable: list[Connection]) -> Connection:
        self._turn += 1
        loads = [connection.load for connection in usable]
        index = router.pick(loads, self._turn)
        # The worker itself refuses what exceeds its queue; this bounds what piles up in the socket of one that cannot.
        if loads[index] >= view.placement.queue_size + MAX_BATCH:
            raise QueueFull(f"{loads[index]} requests are waiting already")
        return usable[index]

    async def _wait(self, view: View) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        view.waiters.add(waiter)
        try:
            await waiter
        finally:
            view.waiters.discard(waiter)

    def report_overdue(self, connection: Connection) -> None:
        self._say(Overdue(connection.address.row, connection.address.epoch))

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        message = unpack(frame.head)
        if isinstance(message, Placement):
            self._place(message)
        elif isinstance(message, FrontendWelcome) and not self._slot.done():
            self._slot.set_result(self._board.slot(message.slot))

    def on_lost(self, channel: Channel) -> None:
        if not self._closing:
            log.error("the supervisor is gone")
            os.kill(os.getpid(), signal.SIGTERM)

    def _place(self, placement: Placement) -> None:
        view = self._views.setdefault(placement.model, View(placement))
        view.placement = placement
        for address in placement.replicas:
            if (address.row, address.epoch) not in view.connections:
                self._connect(view, address)
        view.wake()
        if not self._first.done():
            self._first.set_result(None)

    def _connect(self, view: View, address: Address) -> None:
        connection = Connection(address, self._board.row(address.row), lambda _: self._changed(view))
        view.connections[address.row, address.epoch] = connection
        task = asyncio.get_running_loop().create_task(self._open(view, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, view: View, connection: Connection) -> None:
        try:
            await connection.open()
        except OSError as exc:
            # It died in between; the supervisor will place another one.
            log.debug("a replica cannot be reached", error=str(exc))
            view.connections.pop((connection.address.row, connection.address.epoch), None)

    def _changed(self, view: View) -> None:
        placed = {(address.row, address.epoch) for address in view.placement.replicas}
        for key in [key for key, one in view.connections.items() if not one.is_usable and key not in placed]:
            del view.connections[key]
        view.wake()

    def _say(self, message: Message) -> None:
        self._control.send_raw([pack(message)])
