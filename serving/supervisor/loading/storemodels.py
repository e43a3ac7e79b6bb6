"""StoreModels: the source of a server whose models come from a store, and go when they are not used."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.config.config import Config
from serving.errors import ModelError
from serving.ipc.messages import Locate, ModelsCall, ModelsReply, Placement
from serving.ipc.scoreboard import State
from serving.supervisor.background import Background
from serving.supervisor.executor import News
from serving.supervisor.fleet.actions import Gone, Learned, Settled
from serving.supervisor.fleet.admission import budget_of
from serving.supervisor.fleet.state import FleetState
from serving.supervisor.loading.loader import ModelLoader
from serving.supervisor.loading.modelsapi import ModelsApi
from serving.supervisor.loading.opener import Opener
from serving.supervisor.loading.reloads import Reloads
from serving.system import log, memory

FORK_SERVER = 256 << 20  # bytes; the fork server's memory until it is measured


class StoreModels:
    """A ModelSource. Until the fork server is measured the budget takes a guess of what it shares with the models."""

    def __init__(
        self,
        config: Config,
        state: FleetState,
        opener: Opener,
        loader: ModelLoader,
        reloads: Reloads,
        api: ModelsApi,
        background: Background,
    ) -> None:
        self._config = config
        self._state = state
        self._opener = opener
        self._loader = loader
        self._reloads = reloads
        self._api = api
        self._background = background
        self._state.admission.set_budget(budget_of(config, FORK_SERVER, state.devices.gpus()))

    def preload(self) -> None:
        """Begin to load the models that the settings name."""
        names = self._opener.own_names(self._config.preload or ())
        self._loader.preload(names, time.monotonic() + self._config.load_timeout)

    def tick(self, now: float) -> None:
        if self._config.reload == "on-change":
            self._reloads.tick(now)

    def close(self) -> None:
        self._opener.close()

    def locate(self, message: Locate) -> Placement | None:
        return self._loader.locate(message)

    def ask(self, message: ModelsCall, reply: Callable[[ModelsReply], None]) -> None:
        self._background.spawn(self._api.respond(message, reply))

    def on_news(self, news: News) -> None:
        match news:
            case Settled(deployment, problem):
                self._loader.on_settled(deployment, problem)
            case Gone(deployment):
                self._reloads.on_gone(deployment)
                self._loader.on_gone(deployment)
            case Learned(deployment):
                if deployment.model.fingerprint:
                    self._background.spawn(self._opener.learn(deployment.model, deployment.cost))

    def on_fork_server(self, pid: int) -> None:
        # GPUs count with what was free at the start: models may have taken some of it by now.
        base = memory.resident(pid)
        budget = budget_of(self._config, base, self._state.devices.gpus())
        if budget.host <= 0:
            raise ModelError(
                f"host_memory leaves no memory to models: their processes share {base} bytes of it, and the warm "
                f"tier has {self._config.warm_tier_bytes}"
            )
        self._state.admission.set_budget(budget)
        log.info("the budget is set", bytes=budget.host, devices=budget.devices)

    def state(self, can_start: bool, could_start: bool) -> tuple[State, str]:
        blocked = self._state.devices.blocked(self._config.device)
        if blocked is not None and not any(one.ready() for one in self._state.everything()):
            return State.FAILED, blocked
        # One failed model of many does not make the server unhealthy; without the fork server no model can load.
        if can_start:
            return (State.LOADING, "") if self._loader.is_preloading else (State.READY, "")
        return (State.DEGRADED, "the fork server is starting") if could_start else (State.STARTING, "")
