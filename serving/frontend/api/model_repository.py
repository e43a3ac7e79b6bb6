"""ModelRepository: the models as the Open Inference Protocol names them: their list, loads, statistics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from serving.config.config import Config
from serving.deadline import Deadline
from serving.errors import AlreadyLoaded, BadRequest, ModelLoading, ServingError
from serving.frontend.api import tritonwords
from serving.frontend.api.calls import decode
from serving.frontend.api.models import GRACE, UNLOAD_TIME
from serving.frontend.health import is_healthy
from serving.frontend.invocation.endpoint import Endpoint
from serving.http.open_inference import PREFIX, ModelPath
from serving.ipc.messages import DescribeModels, ListModels, LoadModel, Placement, UnloadModel
from serving.model.model import DEFAULT_MODEL
from serving.model.names import model_name
from serving.request import Request, Response
from serving.system import log

READY_TIME = 5.0  # seconds for a model to answer whether it is ready


class ModelRepository:
    """The models of one server, one or a store."""

    def __init__(self, config: Config, endpoint: Endpoint) -> None:
        self._many = config.many
        self._loads = config.many and not config.multi_model  # on a multi-model endpoint the platform loads models
        self._load_time = config.load_timeout + GRACE
        self._board = endpoint.board
        self._replicas = endpoint.replicas
        self._invocations = endpoint.invocations

    async def place_of(self, model: str) -> Placement:
        """Return where the model is. Raises a ServingError, ModelLoading where that is not known in time."""
        try:
            async with asyncio.timeout(READY_TIME):
                return await self._replicas.placement(model, False, 0.0)
        except TimeoutError:
            raise ModelLoading("the model is not known yet") from None

    async def statistics(self, model: str, path: str, request_id: str) -> list[dict[str, Any]]:
        """Return the statistics of a loaded model, summed over its replicas. Raises a ServingError."""
        request = Request(request_id=request_id, deadline=Deadline.after(READY_TIME), model=model, path=path)
        responses = await self._invocations.invoke_each(request)
        parts = [one for response in responses for one in msgspec.json.decode(response.body)["model_stats"]]
        return [tritonwords.summed(parts)] if parts else []

    async def all_statistics(self, request_id: str) -> list[dict[str, Any]]:
        names = [DEFAULT_MODEL]
        if self._many:
            described = (await self._replicas.link.ask(DescribeModels, self._load_time)).models
            names = [one.model_name for one in described if one.state == "ready"]
        found = []
        for name in names:
            try:
                placement = await self.place_of(name)
                if PREFIX in placement.paths.post:
                    found += await self.statistics(name, f"{PREFIX}/models/{name}/stats", request_id)
            except ServingError as exc:
                log.debug("a model tells no statistics", model=name, error=str(exc))  # it may have gone meanwhile
        return found

    async def index(self, request_id: str, only_ready: bool) -> bytes:
        if not self._many:
            name, number = await self._only_model(request_id)
            state = "READY" if is_healthy(self._board.read_header(), time.monotonic()) else "UNAVAILABLE"
            models = [{"name": name, "version": number, "state": state}]
        elif self._loads:
            listed = (await self._replicas.link.ask(ListModels, self._load_time)).listed
            models = [tritonwords.entry(one) for one in listed]
        else:
            found = (await self._replicas.link.ask(DescribeModels, self._load_time)).models
            models = [{"name": one.model_name, "version": "1", "state": one.state.upper()} for one in found]
        return msgspec.json.encode([one for one in models if not only_ready or one["state"] == "READY"])

    async def _only_model(self, request_id: str) -> tuple[str, str]:
        """Return the name and the version of the only model, as its handler gives them if it speaks the protocol."""
        placement = await self.place_of(DEFAULT_MODEL)
        if PREFIX not in placement.paths.post:
            return DEFAULT_MODEL, "1"
        deadline = Deadline.after(READY_TIME)
        path = f"{PREFIX}/models/{DEFAULT_MODEL}"
        request = Request(request_id=request_id, deadline=deadline, model=DEFAULT_MODEL, path=path)
        response = await self._invocations.invoke(request)
        assert isinstance(response, Response)
        metadata = msgspec.json.decode(response.body)
        return metadata["name"], metadata["versions"][0]

    async def load_or_unload(self, target: ModelPath, body: bytes) -> None:
        """Load or unload a model. Raises a ServingError."""
        if not self._many:
            raise BadRequest("this server has one model, which is always loaded")
        name = model_name(target.model)
        if target.verb == "unload":
            check_change(target.verb, body)
            await self._replicas.link.ask(lambda id: UnloadModel(id, name), UNLOAD_TIME)
            return
        try:
            check_change(target.verb, body)
            await self._replicas.link.ask(lambda id: LoadModel(id, name, ""), self._load_time)
        except ServingError as error:
            if error.code != AlreadyLoaded.code:
                raise tritonwords.of_load(error, name) from error


class IndexBody(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


def index_filter(body: bytes) -> bool:
    """Return whether the request asks for ready models only. Raises BadRequest."""
    return decode(body or b"{}", IndexBody).ready


class ChangeBody(msgspec.Struct):
    parameters: dict[str, msgspec.Raw] = {}


def check_change(verb: str, body: bytes) -> None:
    """Check a load or unload request. Raises BadRequest for parameters that would be ignored."""
    given = decode(body or b"{}", ChangeBody).parameters
    extra = sorted(given.keys() - ({"unload_dependents"} if verb == "unload" else set()))
    if extra:
        raise BadRequest(f"parameter {extra[0]!r} of {verb} is not supported: what is served lies in the store")
