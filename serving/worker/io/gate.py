"""Gate: whether a worker takes requests, and which queue they go to.

state     requests          the worker
CLOSED    go back           loads its model, or is parked
OPENING   go back           cannot be reached yet
OPEN      are taken         is ready
RETIRING  go back           answers what it has taken; then it ends or parks
ENDING    go back           closes its connections once all is sent
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from serving.errors import QueueFull, ServingError
from serving.handler import BatchPolicy
from serving.worker.batching.batcher import Batcher


class GateState(Enum):
    CLOSED = auto()
    OPENING = auto()
    OPEN = auto()
    RETIRING = auto()
    ENDING = auto()


NEXT = {
    GateState.CLOSED: {GateState.OPENING, GateState.ENDING},
    GateState.OPENING: {GateState.OPEN, GateState.RETIRING, GateState.ENDING},
    GateState.OPEN: {GateState.RETIRING, GateState.ENDING},
    # Once more, since one that was to park may have to end after all.
    GateState.RETIRING: {GateState.RETIRING, GateState.CLOSED, GateState.ENDING},
    GateState.ENDING: {GateState.ENDING},
}


class Gate:
    """The gate of one worker. Its state changes on the loop's thread; the engine's reads it."""

    def __init__(self) -> None:
        self.state = GateState.CLOSED
        self.takes = False
        """Whether requests are taken."""
        self._close()

    def _close(self) -> None:
        self.batcher = Batcher(BatchPolicy(), 1)  # nobody's: it stays empty
        self.waking = Soon(self.batcher.wake)

    def open_for(self, batcher: Batcher) -> None:
        """Make ``batcher`` the queue of requests, which are taken once the state is OPEN."""
        self.become(GateState.OPENING)
        self.batcher, self.waking = batcher, Soon(batcher.wake)

    def become(self, state: GateState) -> None:
        """Change the state. Raises ValueError for a change that there is not."""
        if state not in NEXT[self.state]:
            raise ValueError(f"a worker that is {self.state.name} does not become {state.name}")
        self.state = state
        self.takes = state is GateState.OPEN
        if state is GateState.CLOSED:
            self._close()

    @property
    def refusal(self) -> ServingError:
        """The error of a request that the queue has just refused."""
        return self.batcher.refusal or QueueFull("the queue is full")


class Soon:
    """Calls ``function`` once behind the callbacks that are ready, however often it is asked for. On the loop."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._is_due = False

    def ask(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._call)

    def _call(self) -> None:
        self._is_due = False
        self._function()
