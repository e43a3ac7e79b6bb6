"""Departures: how a model leaves: evicted, unloaded, replaced by its successor or given up. Nothing starts here."""

from __future__ import annotations

from collections.abc import Iterable

from serving.errors import ServingError
from serving.ipc.messages import Problem
from serving.ipc.scoreboard import Scoreboard
from serving.supervisor.fleet.books import Books
from serving.supervisor.fleet.replica import (
    Action,
    Evicted,
    Gone,
    Park,
    Publish,
    Replica,
    Retire,
    Served,
    Settled,
    Stage,
    Status,
)
from serving.supervisor.fleet.warmtier import Parked


class Departures(Books):
    def __init__(self, board: Scoreboard, warm_bytes: int = 0) -> None:
        super().__init__(board, warm_bytes)
        self._next_admit = 0.0  # the instant of the next decisions on models that wait for room

    def _evict(self, keys: Iterable[int], reason: str, now: float, parks: bool = True) -> list[Action]:
        victims = {served.key: served for served in self._all}
        actions: list[Action] = []
        for key in keys:
            actions += [Evicted(victims[key], reason), *self.leave(victims[key], now, parks=parks)]
        return actions

    def leave(self, served: Served, now: float, problem: Problem | None = None, parks: bool = False) -> list[Action]:
        """Let a model finish its requests and end. ``problem`` goes to requests that wait for it; with ``parks`` its
        workers may keep their weights.
        """
        served.stage, served.problem = Stage.LEAVING, problem
        actions: list[Action] = [Publish(served.name)]
        for replica in served.live():
            replica.parks = parks and self._may_park(replica)
            replica.become(Status.RETIRING, now)
            actions.append(Park(replica) if replica.parks else Retire(replica))
        for successor in [one for one in self._all if one.predecessor is served and one.stage is not Stage.LEAVING]:
            actions += self.leave(successor, now)
        return actions if served.replicas else [*actions, *self._forget(served)]

    def _may_park(self, replica: Replica) -> bool:
        if replica.status is not Status.READY or replica.pid is None or replica.cut is not None:
            return False
        return self.warm.takes(replica.served.model, replica.row.memory + replica.row.device_memory)

    def parked(self, row: int, epoch: int, now: float) -> list[Action]:
        """Handle a worker that has moved its weights to the host; its row has the memory that it holds now."""
        replica = self.find(row, epoch)
        if replica is None or replica.pid is None or not (replica.parks and replica.status is Status.RETIRING):
            return []
        served = replica.served
        served.replicas.remove(replica)
        del self._by_pid[replica.pid]
        size = max(1, replica.row.memory)
        one = Parked(served.model, replica.device, replica.row, epoch, replica.pid, size, cut=replica.cut)
        wanted = {other.name for other in self._all if other.stage is Stage.WAITING}
        actions: list[Action] = [*self.warm.add(one, now, wanted)]
        return actions if served.replicas else [*actions, *self._forget(served)]

    def _forget(self, served: Served) -> list[Action]:
        self._all.remove(served)
        self._next_admit = 0.0
        if self._current.get(served.name) is served:
            del self._current[served.name]
        return [Gone(served)]

    def _give_up_load(self, served: Served, error: ServingError, now: float) -> list[Action]:
        problem = Problem.of(error)
        if served.predecessor is not None:
            served.predecessor.reload_error = problem.message
        return [Settled(served, problem), *self.leave(served, now, problem)]

    def _settle_load(self, served: Served, now: float) -> list[Action]:
        actions: list[Action] = [Settled(served, None)]
        old, served.predecessor = served.predecessor, None
        if old is not None and old.stage is not Stage.LEAVING:
            self._current[served.name] = served
            served.owner = old.owner
            # A client's pin holds until the model's own setting changes.
            served.pinned = served.pinned if served.model.pin != old.model.pin else old.pinned
            actions += self.leave(old, now)
        return actions

    def retire(self, now: float) -> list[Replica]:
        """Let all workers finish and end; no new ones start. Returns the replicas to tell."""
        told = []
        for served in self._all:
            served.failed = served.failed or "the server is stopping"
            for replica in served.live():
                replica.become(Status.RETIRING, now)
                told.append(replica)
        return told
