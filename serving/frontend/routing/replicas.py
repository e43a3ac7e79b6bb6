"""Replicas: what this HTTP worker knows of models and where they live, and its connections to them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from serving.errors import CodedError, ModelBroken, ModelNotLoaded, QueueFull, SessionLost
from serving.frontend.routing import router
from serving.frontend.routing.connection import Connection
from serving.frontend.supervisor import SupervisorLink
from serving.handler import MAX_BATCH
from serving.ipc.messages import Address, Overdue, Placement, Problem
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.session import SessionAddress, address_of
from serving.system import log

AGAIN = 0.1  # seconds before a lost connection to a replica that should be there is made anew
LOST = 2.0  # seconds between looks whether a replica that is neither placed nor retiring is dead
MAX_WAITERS = 4096  # requests for a model whose own limit is not known yet


@dataclass(slots=True, eq=False)
class View:
    """One model as seen from here; its placement is unknown until the supervisor answers. ``problem`` ends it."""

    placement: Placement | None = None
    problem: Problem | None = None
    connections: dict[tuple[int, int], Connection] = field(default_factory=dict)
    waiters: set[asyncio.Future[None]] = field(default_factory=set)
    _usable: list[Connection] | None = None

    def placed(self) -> set[tuple[int, int]]:
        return {(one.row, one.epoch) for one in self.placement.replicas} if self.placement is not None else set()

    def usable(self) -> list[Connection]:
        """Replicas that take requests. One may have ended since the last change: it loses what it is sent."""
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
        """Wait for the next one. Raises QueueFull where too many do, but for a request that was ``accepted`` once."""
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
    """A model is asked for at its first request and known until the supervisor says that it is gone."""

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
        """Connect to the supervisor; gives this worker's slot of the scoreboard."""
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
        """What a model is called that clients may call otherwise, as far as that is known."""
        return self._names.get(model, model)

    async def placement(self, model: str, load: bool, until: float) -> Placement:
        """What is known of a model, loading it if it is to be. Raises the ServingError that the supervisor gives.

        ``until`` is how long room for it is worth waiting for. The caller bounds the wait here.
        """
        while True:
            model = self.name_of(model)
            view = self._views.get(model)
            if view is None:
                view = self._views[model] = View()
                self._link.locate(model, load, until)
            if view.placement is not None:
                return view.placement
            await view.change()
            if view.problem is not None and not (load and view.problem.code == ModelNotLoaded.code):
                raise view.problem.error()

    async def pick(
        self, model: str, load: bool, until: float, accepted: bool = False, alone: bool = False
    ) -> Connection:
        """A replica that takes requests; waits for one. Raises a ServingError; the caller bounds the wait.

        A request that a replica had ``accepted`` before it died is not refused because queues are full. One that is to
        run ``alone`` goes where it can hurt nobody, if there is such a replica.
        """
        while True:
            placement = await self.placement(model, load, until)
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
        """The replica to take without waiting for anything, if there is one. Raises QueueFull."""
        view = self._views.get(model)
        if view is None or view.placement is None or not (usable := view.usable()):
            return None
        if len(usable) == 1 and usable[0].waiting < view.placement.queue_size:
            return usable[0]
        return self._choose(usable, view.placement, False)

    def all_of(self, model: str) -> list[Connection]:
        """The replicas of a model that take requests now."""
        view = self._views.get(self.name_of(model))
        return [] if view is None else list(view.usable())

    async def holder(self, model: str, address: SessionAddress) -> Connection:
        """The replica that holds a session; waits for the connection to it. Raises SessionLost."""
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
        # The worker itself refuses what exceeds its queue; this bounds what piles up in the socket of one that cannot.
        if loads[index] >= placement.queue_size + MAX_BATCH and not accepted:
            raise QueueFull(f"{loads[index]} requests are waiting already")
        return usable[index]

    def disown(self, model: str, announcement: str) -> None:
        """End the session that a response announces, since its client did not take it."""
        id = announcement.partition(";")[0]
        address, view = address_of(id), self._views.get(model)
        connection = view.connections.get((address.row, address.epoch)) if view is not None and address else None
        if connection is not None:
            connection.disown(id)

    def report_overdue(self, connection: Connection) -> None:
        self._link.say(Overdue(connection.address.row, connection.address.epoch))

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
        """Look in a while whether it is dead. One that has not said that it retires may only be too busy for that."""
        self._doubted.add(connection)
        asyncio.get_running_loop().call_later(LOST, self._look, connection)

    def _look(self, connection: Connection) -> None:
        self._doubted.discard(connection)
        if connection.is_usable and connection.is_dead:
            connection.abandon()
        elif connection.is_usable or connection.is_opening:
            self._doubt(connection)

    def _drop(self, placement: Placement) -> None:
        """Its requests under way end as they would; who waits hears of the problem or asks anew."""
        view = self._views.pop(placement.model, None)
        for other in [other for other, name in self._names.items() if name == placement.model]:
            del self._names[other]
            self._views.pop(other, None)
        if placement.alias:
            self._learn(placement.model, placement.alias)
        if view is not None:
            view.problem = placement.problem
            view.placement = None  # so that no lost connection of it is made anew
            view.wake()

    def _learn(self, other: str, name: str) -> None:
        """Whoever waits for ``other`` is about to ask for ``name``, under which it is remembered until that is gone."""
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
            # It died in between and the supervisor will place another one, or there is something that will pass.
            log.debug("a replica cannot be reached", error=str(exc))
            self._changed(view)

    def _changed(self, view: View) -> None:
        placed = view.placed()
        for key, connection in list(view.connections.items()):
            if connection.is_usable or connection.is_opening:
                continue
            del view.connections[key]
            if key in placed and not connection.is_retiring and not self._closing:
                # The worker may live all the same: only the supervisor says that it is gone.
                asyncio.get_running_loop().call_later(AGAIN, self._reconnect, view, connection.address)
        view.wake()

    def _reconnect(self, view: View, address: Address) -> None:
        key = (address.row, address.epoch)
        if key in view.placed() and key not in view.connections and not self._closing:
            self._connect(view, address)
