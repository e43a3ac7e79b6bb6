"""Replicas: the models and their replicas as this HTTP worker knows them, and its connections to them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from serving.errors import CodedError, ModelBroken, ModelNotLoaded, QueueFull, SessionLost
from serving.frontend.routing import router
from serving.frontend.routing.connection import Connection
from serving.frontend.supervisorlink import SupervisorLink
from serving.handler import MAX_BATCH
from serving.ipc.messages import Address, Overdue, Placement, Problem
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.session import SessionAddress, address_of
from serving.system import log

AGAIN = 0.1  # seconds before reconnecting to a replica that is still placed
LOST = 2.0  # seconds between checks whether a replica that is neither placed nor retiring is dead
MAX_WAITERS = 4096  # requests for a model whose own limit is not known yet


@dataclass(slots=True, eq=False)
class View:
    """One model as this worker sees it; ``placement`` is None until the supervisor answers. A ``problem`` ends the
    view.
    """

    placement: Placement | None = None
    problem: Problem | None = None
    connections: dict[tuple[int, int], Connection] = field(default_factory=dict)
    waiters: set[asyncio.Future[None]] = field(default_factory=set)
    _usable: list[Connection] | None = None

    def placed(self) -> set[tuple[int, int]]:
        return {(one.row, one.epoch) for one in self.placement.replicas} if self.placement is not None else set()

    def usable(self) -> list[Connection]:
        """Return the replicas that take requests. One may have ended since the last change: a request sent to it is
        lost.
        """
        if self._usable is None:
            placed = self.placed()
            self._usable = [one for key, one in self.connections.items() if one.is_usable and key in placed]
        return self._usable

    def wake(self) -> None:
        self._usable = None
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self, accepted: bool = False) -> None:
        """Wait for the next change. Raises QueueFull where too many requests wait, unless this one was ``accepted``
        before.
        """
        limit = self.placement.queue_size if self.placement is not None else MAX_WAITERS
        if len(self.waiters) >= limit and not accepted:
            raise QueueFull(f"{len(self.waiters)} requests are waiting for a replica already")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            await waiter
        finally:
            self.waiters.discard(waiter)


class Replicas:
    """The replicas of all models. A model is located at its first request and known until the supervisor says it is
    gone.
    """

    def __init__(self, runtime: Runtime, board: Scoreboard) -> None:
        self._board = board
        self._link = SupervisorLink(runtime, board, self._place)
        self._views: dict[str, View] = {}
        self._names: dict[str, str] = {}
        self._turn = 0
        self._closing = False
        self._doubted: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def link(self) -> SupervisorLink:
        return self._link

    async def start(self) -> Slot:
        """Connect to the supervisor; returns this worker's slot of the scoreboard."""
        return await self._link.start()

    def close(self) -> None:
        self._closing = True
        for view in self._views.values():
            for connection in view.connections.values():
                connection.close()
        self._link.close()

    def known(self, model: str) -> Placement | None:
        view = self._views.get(model)
        return view.placement if view is not None else None

    def name_of(self, model: str) -> str:
        """Return the model's own name for an alias that clients use, where that is known; otherwise the same name."""
        return self._names.get(model, model)

    async def placement(self, model: str, load: bool, until: float, accepted: bool = False) -> Placement:
        """Return the placement of a model, which is loaded first if ``load``. Raises the supervisor's ServingError, and
        QueueFull unless the request was ``accepted`` before.

        ``until`` is the instant until which the supervisor may wait for room. The caller bounds the wait here.
        """
        while True:
            model = self.name_of(model)
            view = self._views.get(model)
            if view is None:
                view = self._views[model] = View()
                self._link.locate(model, load, until)
            if view.placement is not None:
                return view.placement
            await view.change(accepted)
            if view.problem is not None and not (load and view.problem.code == ModelNotLoaded.code):
                raise view.problem.error()

    async def pick(
        self, model: str, load: bool, until: float, accepted: bool = False, alone: bool = False
    ) -> Connection:
        """Return a replica that takes requests; waits for one. Raises a ServingError. The caller bounds the wait.

        A request that was ``accepted`` by a replica that died is not refused for a full queue. One that must run
        ``alone`` goes to a replica without sessions and streams, if there is one.
        """
        while True:
            placement = await self.placement(model, load, until, accepted)
            view = self._views[self.name_of(model)]
            usable = view.usable()
            if usable:
                free = [one for one in usable if not one.holds_others] if alone else usable
                return self._choose(free or usable, placement, accepted)
            if placement.failed is not None:
                raise ModelBroken(f"the model is not served: {placement.failed}")
            await view.change(accepted)
            if view.problem is not None:
                raise view.problem.error()

    def at_hand(self, model: str) -> Connection | None:
        """Return a replica that can be used without waiting, or None. Raises QueueFull."""
        view = self._views.get(model)
        if view is None or view.placement is None or not (usable := view.usable()):
            return None
        if len(usable) == 1 and usable[0].waiting < view.placement.queue_size:
            return usable[0]
        return self._choose(usable, view.placement, False)

    def all_of(self, model: str) -> list[Connection]:
        """Return the replicas of a model that take requests now."""
        view = self._views.get(self.name_of(model))
        return [] if view is None else list(view.usable())

    async def holder(self, model: str, address: SessionAddress) -> Connection:
        """Return the replica that holds a session; waits for the connection to it. Raises SessionLost."""
        key = (address.row, address.epoch)
        while True:
            try:
                await self.placement(model, False, 0.0)
            except CodedError as error:
                raise SessionLost("the session was lost with its model's process") from error
            view = self._views[self.name_of(model)]
            if key not in view.placed():
                raise SessionLost("the session was lost with its model's process")
            connection = view.connections.get(key)
            if connection is not None and connection.is_usable:
                return connection
            await view.change()

    def _choose(self, usable: list[Connection], placement: Placement, accepted: bool) -> Connection:
        self._turn += 1
        loads = [connection.load for connection in usable]
        index = router.pick(loads, self._turn) if len(loads) > 1 else 0
        # The worker refuses what exceeds its queue; this bounds the socket's backlog of a worker that does not read.
        if loads[index] >= placement.queue_size + MAX_BATCH and not accepted:
            raise QueueFull(f"{loads[index]} requests are waiting already")
        return usable[index]

    def disown(self, model: str, announcement: str) -> None:
        """End the session that a response announces, since the client did not receive it."""
        id = announcement.partition(";")[0]
        address, view = address_of(id), self._views.get(model)
        connection = view.connections.get((address.row, address.epoch)) if view is not None and address else None
        if connection is not None:
            connection.disown(id)

    def report_overdue(self, connection: Connection) -> None:
        self._link.send(Overdue(connection.address.row, connection.address.epoch))

    def _place(self, placement: Placement) -> None:
        if placement.gone:
            self._drop(placement)
            return
        view = self._views.setdefault(placement.model, View())
        view.placement = placement
        self._views |= {other: view for other, name in self._names.items() if name == placement.model}
        for address in placement.replicas:
            self._reconnect(view, address)
        placed = view.placed()
        for key, connection in view.connections.items():
            if key not in placed and connection not in self._doubted:
                self._doubt(connection)
        view.wake()

    def _doubt(self, connection: Connection) -> None:
        """Check later whether the replica is dead. A live one may be too busy to have said that it retires."""
        self._doubted.add(connection)
        asyncio.get_running_loop().call_later(LOST, self._look, connection)

    def _look(self, connection: Connection) -> None:
        self._doubted.discard(connection)
        if connection.is_usable and connection.is_dead:
            connection.abandon()
        elif connection.is_usable or connection.is_opening:
            self._doubt(connection)

    def _drop(self, placement: Placement) -> None:
        """Forget a model that is gone. Its running requests finish; waiting requests get the problem or ask again."""
        view = self._views.pop(placement.model, None)
        for other in [other for other, name in self._names.items() if name == placement.model]:
            del self._names[other]
            self._views.pop(other, None)
        if placement.alias:
            self._learn(placement.model, placement.alias)
        if view is not None:
            view.problem = placement.problem
            view.placement = None  # so that lost connections are not reopened
            view.wake()

    def _learn(self, other: str, name: str) -> None:
        """Remember ``other`` as an alias of ``name``, for which waiting requests will ask next, until the model is
        gone.
        """
        self._names[other] = name
        if name in self._views:
            self._views[other] = self._views[name]

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
            # The replica died and the supervisor will place another one, or the error is temporary.
            log.debug("a replica cannot be reached", error=str(exc))
            self._changed(view)

    def _changed(self, view: View) -> None:
        placed = view.placed()
        for key, connection in list(view.connections.items()):
            if connection.is_usable or connection.is_opening:
                continue
            del view.connections[key]
            if key in placed and not connection.is_retiring and not self._closing:
                # The worker may still live: only the supervisor knows that it is gone.
                asyncio.get_running_loop().call_later(AGAIN, self._reconnect, view, connection.address)
        view.wake()

    def _reconnect(self, view: View, address: Address) -> None:
        key = (address.row, address.epoch)
        if key in view.placed() and key not in view.connections and not self._closing:
            self._connect(view, address)
