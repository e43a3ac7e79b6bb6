"""ModelsApi: replies to the calls of the multi-model API: load, unload, pin, describe, list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from serving.config.config import Config
from serving.errors import BadRequest, ModelNotLoaded, ServingError, Unavailable
from serving.ipc.messages import (
    DescribeModels,
    FindDefault,
    ListModels,
    LoadModel,
    ModelsCall,
    ModelsReply,
    PinModel,
    Problem,
    UnloadModel,
)
from serving.model.names import TARGET_MODEL
from serving.supervisor.fleet.deployment import Deployment, Stage
from serving.supervisor.fleet.describe import describe, shown
from serving.supervisor.fleet.state import FleetState
from serving.supervisor.loading.broken import BrokenModels
from serving.supervisor.loading.listing import Listing
from serving.supervisor.loading.loader import ModelLoader
from serving.supervisor.loading.opener import Opener
from serving.system import log

LONGEST = 350.0  # seconds that the platform waits for a call
GRACE = 60.0  # seconds more, after which nobody waits for the answer to a call


class ModelsApi:
    """The calls of the platform and of clients that list models."""

    def __init__(
        self,
        config: Config,
        state: FleetState,
        loader: ModelLoader,
        opener: Opener,
        listing: Listing,
        broken: BrokenModels,
    ) -> None:
        self._config = config
        self._state = state
        self._loader = loader
        self._opener = opener
        self._listing = listing
        self._broken = broken

    async def respond(self, message: ModelsCall, reply: Callable[[ModelsReply], None]) -> None:
        """Carry out one call and reply to it, once."""
        try:
            async with asyncio.timeout(max(self._config.load_timeout, LONGEST) + GRACE):
                result = await self._carry_out(message)
        except TimeoutError:
            result = ModelsReply(message.id, Problem.of(Unavailable("this takes longer than a call may; it goes on")))
        except ServingError as error:
            result = ModelsReply(message.id, Problem.of(error))
        except Exception as exc:
            log.error("a call of the multi-model API failed", exc=exc)
            result = ModelsReply(message.id, Problem(500, "internal", "internal error"))
        reply(result)

    async def _carry_out(self, message: ModelsCall) -> ModelsReply:
        match message:
            case LoadModel(id=id, model=name, url=url):
                return ModelsReply(id, await self._loader.load(name, url, self._config.request_timeout))
            case UnloadModel(id=id, model=name):
                await self._loader.unload(self._own_name(name))
                return ModelsReply(id)
            case PinModel(id=id, model=name, pinned=pinned):
                self._loaded(name).pinned = pinned
                return ModelsReply(id)
            case DescribeModels(id=id, model=name):
                found = self._state.current() if name is None else [self._loaded(name)]
                now = time.monotonic()
                described = [describe(one, now) for one in found if one.stage is not Stage.LEAVING]
                return ModelsReply(
                    id, models=described if self._config.local else [shown(one, self._config) for one in described]
                )
            case ListModels(id=id, model=name):
                listed = await self._listing.all() if name is None else [await self._listing.one(name)]
                return ModelsReply(id, listed=listed)
            case FindDefault(id=id):
                return ModelsReply(id, name=await self._default())

    def _own_name(self, name: str) -> str:
        """Return a model's own name where it was loaded by another one."""
        return name if self._state.get(name) is not None else self._opener.own_name(name)

    def _loaded(self, name: str) -> Deployment:
        deployment = self._state.get(self._own_name(name))
        if deployment is None or deployment.stage is Stage.LEAVING:
            reason = self._broken.reason(name)
            raise ModelNotLoaded(f"model {name} is not loaded{f'; the last time: {reason}' if reason else ''}")
        return deployment

    async def _default(self) -> str:
        if self._config.default_model is not None:
            return self._config.default_model
        names = await asyncio.to_thread(self._opener.names)
        if len(names) != 1:
            raise BadRequest(f"the header {TARGET_MODEL} must name one of the {len(names)} models of the store")
        return names[0]
