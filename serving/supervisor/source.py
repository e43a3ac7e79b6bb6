"""ModelSource: where the models of a server come from: one is there from the start, or a store's come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serving.ipc.messages import Locate, ModelsCall, ModelsReply, Placement
from serving.ipc.scoreboard import State
from serving.supervisor.executor import Executor, News
from serving.supervisor.fleet.describe import server_state
from serving.supervisor.fleet.state import FleetState


class ModelSource(Protocol):
    def preload(self) -> None:
        """Begin to load the models that the settings name."""
        ...

    def tick(self, now: float) -> None: ...

    def close(self) -> None: ...

    def locate(self, message: Locate) -> Placement | None:
        """Return where a model is; None where that will be told later."""
        ...

    def ask(self, message: ModelsCall, reply: Callable[[ModelsReply], None]) -> None:
        """Answer one call of the multi-model API."""
        ...

    def on_news(self, news: News) -> None:
        """Handle the end of a load, of a model, or of a measurement."""
        ...

    def on_fork_server(self, pid: int) -> None:
        """Set the memory budget, for which the ready fork server is measured. Raises ModelError where it leaves models
        nothing.
        """
        ...

    def state(self, can_start: bool, could_start: bool) -> tuple[State, str]:
        """Return the server's state and why. ``can_start``: the fork server is ready; ``could_start``: it has run
        before.
        """
        ...


class OneModel:
    """The source of a server whose model was read before it started."""

    def __init__(self, state: FleetState, executor: Executor) -> None:
        self._state = state
        self._executor = executor

    def locate(self, message: Locate) -> Placement | None:
        return self._executor.placement(message.model)

    def state(self, can_start: bool, could_start: bool) -> tuple[State, str]:
        return server_state(self._state.everything())

    def preload(self) -> None:
        """Nothing: the model starts with the first tick."""

    def tick(self, now: float) -> None: ...

    def close(self) -> None: ...

    def ask(self, message: ModelsCall, reply: Callable[[ModelsReply], None]) -> None:
        """Nothing: HTTP workers of such a server have no multi-model API."""

    def on_news(self, news: News) -> None: ...

    def on_fork_server(self, pid: int) -> None:
        """Nothing: the one model has no budget."""
