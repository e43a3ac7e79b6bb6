"""The Open Inference Protocol (KServe v2), for its clients and Triton's: ``/v2`` and the paths below it.

    GET  /v2                                        this server
    GET  /v2/health/live, /v2/health/ready
    GET  /v2/models/{m}[/versions/{v}][/config]     a model's inputs and outputs
    GET  /v2/models/{m}[/versions/{v}]/ready
    GET  /v2/models/{m}[/versions/{v}]/stats        its statistics; GET /v2/models/stats for all loaded models
    POST /v2/models/{m}[/versions/{v}]/infer
    POST /v2/repository/index                       the models of the store; with {"ready": true} only the ready ones
    POST /v2/repository/models/{m}/load, unload     where the server has a store

Requests about one model go to its handler, whose response is passed on. A failure is ``{"error": "text"}``.
"""

from __future__ import annotations

import asyncio
import time
from importlib import metadata
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from serving.config.config import Config
from serving.deadline import Deadline
from serving.errors import (
    AlreadyLoaded,
    BadRequest,
    CodedError,
    Draining,
    MethodNotAllowed,
    ModelLoading,
    ModelNotLoaded,
    NotFound,
    ServingError,
    UnsupportedMediaType,
)
from serving.frontend.api import tritonwords
from serving.frontend.api.calls import decode
from serving.frontend.api.models import GRACE, UNLOAD_TIME
from serving.frontend.bodies import BodyReservation
from serving.frontend.error_responses import CAUGHT, Api, report
from serving.frontend.health import is_healthy
from serving.frontend.http.headers import Headers, SentHeaders, id_of, labelling, read_headers
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.receiving import read_body, watch
from serving.frontend.responses import JSON, STOPPED
from serving.frontend.routing.stream import Streamed
from serving.http.accept import parameters
from serving.http.headers import check_all
from serving.http.open_inference import (
    BINARY,
    HEADER_SIZE,
    PREFIX,
    STATISTICS,
    UNKNOWN,
    ModelPath,
    binary_type,
    model_path,
    repository_path,
)
from serving.ipc.messages import DescribeModels, ListModels, LoadModel, Placement, UnloadModel
from serving.ipc.scoreboard import State
from serving.model.model import DEFAULT_MODEL
from serving.model.names import model_name
from serving.request import Request, Response, media_type
from serving.system import log

NAME = "triton"  # clients compare it
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "sequence", "statistics"]
SIZE_HEADER = b"inference-header-content-length"
ABSENT = {  # Triton's paths that are not supported here
    f"{PREFIX}/systemsharedmemory": "shared memory is",
    f"{PREFIX}/cudasharedmemory": "shared memory is",
    f"{PREFIX}/trace": "settings of traces are",
    f"{PREFIX}/logging": "settings of the log are",
}
METHODS = {"trace/setting": ("GET", "POST")} | dict.fromkeys(("infer", "generate", "generate_stream"), ("POST",))
CONTROL_BODY = 1 << 20  # bytes of a request's body, unless it is an inference
READY_TIME = 5.0  # seconds for a model to answer whether it is ready
API = Api(STOPPED, "a call of the Open Inference Protocol failed")


class OpenInference:
    """The ASGI application for the paths below ``/v2``."""

    def __init__(self, config: Config, endpoint: Endpoint) -> None:
        self._bodies = endpoint.bodies
        self._version = installed_version()
        self._many = config.many
        self._loads = config.many and not config.multi_model  # on a multi-model endpoint the platform loads models
        self._max_body = config.max_body
        self._body_time = config.request_timeout
        self._load_time = config.load_timeout + GRACE
        self._stream_timeout = config.stream_timeout
        self._board = endpoint.board
        self._replicas = endpoint.replicas
        self._invocations = endpoint.invocations
        self._responses = endpoint.responses
        self._new_id = endpoint.new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = id_of(read_headers(scope["headers"])[2], self._new_id)
        send = labelling(send, request_id)
        try:
            await self._respond(scope, receive, send, request_id)
        except CAUGHT as exc:
            failure = report(exc, API, request_id)
            if failure is not None:
                body = msgspec.json.encode({"error": failure.message})
                await self._responses.send_body(send, failure.status, JSON, body, failure.headers)

    async def _respond(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        path = scope["path"]
        if path.rstrip("/") == STATISTICS:
            allow(scope, "GET")
            await self._responses.send_body(send, 200, JSON, statistics_body(await self._all_statistics(request_id)))
        elif (target := model_path(path)) is not None:
            try:
                await self._model(target, scope, receive, send, request_id)
            except ServingError as error:
                raise tritonwords.of_model(error, target.model) from error
        elif (target := repository_path(path)) is not None:
            allow(scope, "POST")
            await self._change(target, await self._control_body(scope, receive))
            await self._responses.send_body(send, 200, JSON, b"")
        elif path == f"{PREFIX}/repository/index":
            allow(scope, "POST")
            only_ready = index_filter(await self._control_body(scope, receive))
            await self._responses.send_body(send, 200, JSON, await self._index(request_id, only_ready))
        elif (what := next((what for start, what in ABSENT.items() if path.startswith(start)), None)) is not None:
            raise CodedError(501, "not_supported", f"{what} not supported here")
        else:
            allow(scope, "GET", "HEAD")
            await self._responses.send_body(send, 200, JSON, self._of_server(path.rstrip("/")))

    async def _control_body(self, scope: Scope, receive: Receive) -> bytes:
        reservation = BodyReservation(self._bodies)
        try:
            deadline = Deadline.after(self._body_time)
            return await read_body(scope["headers"], receive, CONTROL_BODY, deadline, reservation)
        finally:
            reservation.release()

    def _of_server(self, path: str) -> bytes:
        """Return the body for a path about the server. Raises ModelLoading while the server is not healthy, or
        NotFound.
        """
        if path == PREFIX:
            return msgspec.json.encode({"name": NAME, "version": self._version, "extensions": EXTENSIONS})
        if path == f"{PREFIX}/health/live":
            return b'{"live":true}'
        if path == f"{PREFIX}/health/ready":
            if not is_healthy(self._board.read_header(), time.monotonic()):
                raise ModelLoading("the server is not ready")
            return b'{"ready":true}'
        raise NotFound(f"{path} is not served here")

    # One model.

    async def _model(self, target: ModelPath, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        arrival = time.monotonic()
        allow(scope, *METHODS.get(target.verb, ("GET",)))
        draining = self._board.state is State.DRAINING
        model = model_name(target.model) if self._many else DEFAULT_MODEL
        if target.verb == "ready":
            if not await self._is_ready(model, target.version):
                await self._responses.send_body(send, 200, JSON, msgspec.json.encode({"name": model, "ready": True}))
                return
            deadline = Deadline(arrival + READY_TIME)
        else:
            deadline = await self._invocations.deadline(model, self._loads and not draining, arrival)
            await self._speaks(model, deadline)
        if target.verb == "stats":
            found = await self._statistics(model, scope["path"], request_id)
            await self._responses.send_body(send, 200, JSON, statistics_body(found))
            return
        content_type, accept, sagemaker = read_headers(scope["headers"])
        check_all(content_type, accept, sagemaker)
        content_type = labelled(content_type, scope["headers"])
        reservation = BodyReservation(self._bodies)
        try:
            body = await read_body(scope["headers"], receive, self._max_body, deadline, reservation)
            if draining:
                raise Draining("the server is stopping")
            sent = SentHeaders(scope["headers"])
            request = Request(body, content_type, accept, request_id, deadline, model, path=scope["path"], headers=sent)
            response = await watch(self._invocations.invoke(request, self._loads), receive)
            del body  # it will not be sent again: release its memory
            request = msgspec.structs.replace(request, body=b"")
            if isinstance(response, Streamed):
                until = max(deadline.at, arrival + self._stream_timeout)
                await self._responses.stream(scope, receive, send, response, request, until, reservation)
            else:
                self._responses.hold(scope, response.body, reservation)
                await self._send(send, response)
        finally:
            reservation.release()

    async def _send(self, send: Send, response: Response) -> None:
        """Send a response. Binary tensors are marked by a header of the protocol, not by the content type."""
        kind, extra = response.content_type, []
        if media_type(kind) == BINARY:
            extra = [(SIZE_HEADER, parameters(kind)[HEADER_SIZE].encode())]
            kind = "application/octet-stream"
        await self._responses.send_body(send, response.status, kind, response.body, extra)

    async def _is_ready(self, model: str, version: str) -> bool:
        """Return whether the model's handler must be asked, too. Raises a ServingError where the model is missing or
        not ready.
        """
        try:
            placement = await self._placement(model)
        except CodedError as error:
            if not self._loads or error.code != ModelNotLoaded.code:
                raise
            await self._check_listed(model, version)
            return False
        if not placement.replicas:
            raise ModelLoading(f"model {model} is not ready")
        return PREFIX in placement.paths.post

    async def _placement(self, model: str) -> Placement:
        """Return where the model is. Raises a ServingError, ModelLoading where that is not known in time."""
        try:
            async with asyncio.timeout(READY_TIME):
                return await self._replicas.placement(model, False, 0.0)
        except TimeoutError:
            raise ModelLoading("the model is not known yet") from None

    async def _check_listed(self, model: str, version: str) -> None:
        """Check that the first request would load the model, which is in the store but not loaded. Raises a
        ServingError if not.
        """
        [listed] = (await self._replicas.link.ask(lambda id: ListModels(id, model), READY_TIME)).listed
        if version not in ("", listed.version):
            raise NotFound(f"{UNKNOWN} '{model}' version {version} is not found")
        if listed.state == "unavailable":
            raise ModelNotLoaded(f"model {model} is not ready: {listed.reason}")
        if listed.state != "ready":
            raise ModelLoading(f"model {model} is not ready")

    async def _statistics(self, model: str, path: str, request_id: str) -> list[dict[str, Any]]:
        """Return the statistics of a loaded model, summed over its replicas. Raises a ServingError."""
        request = Request(request_id=request_id, deadline=Deadline.after(READY_TIME), model=model, path=path)
        responses = await self._invocations.invoke_each(request)
        parts = [one for response in responses for one in msgspec.json.decode(response.body)["model_stats"]]
        return [tritonwords.summed(parts)] if parts else []

    async def _all_statistics(self, request_id: str) -> list[dict[str, Any]]:
        names = [DEFAULT_MODEL]
        if self._many:
            described = (await self._replicas.link.ask(DescribeModels, self._load_time)).models
            names = [one.model_name for one in described if one.state == "ready"]
        found = []
        for name in names:
            try:
                placement = await self._placement(name)
                if PREFIX in placement.paths.post:
                    found += await self._statistics(name, f"{PREFIX}/models/{name}/stats", request_id)
            except ServingError as exc:
                log.debug("a model tells no statistics", model=name, error=str(exc))  # it may have gone meanwhile
        return found

    async def _speaks(self, model: str, deadline: Deadline) -> None:
        try:
            await self._invocations.takes(model, PREFIX, self._loads, deadline)
        except NotFound:
            raise BadRequest(
                "the handler of this model does not speak the Open Inference Protocol: POST /invocations"
            ) from None

    # The models of the store.

    async def _index(self, request_id: str, only_ready: bool) -> bytes:
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
        placement = await self._placement(DEFAULT_MODEL)
        if PREFIX not in placement.paths.post:
            return DEFAULT_MODEL, "1"
        deadline = Deadline.after(READY_TIME)
        path = f"{PREFIX}/models/{DEFAULT_MODEL}"
        request = Request(request_id=request_id, deadline=deadline, model=DEFAULT_MODEL, path=path)
        response = await self._invocations.invoke(request)
        assert isinstance(response, Response)
        metadata = msgspec.json.decode(response.body)
        return metadata["name"], metadata["versions"][0]

    async def _change(self, target: ModelPath, body: bytes) -> None:
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


def installed_version() -> str:
    try:
        return metadata.version("serving")
    except metadata.PackageNotFoundError:  # it runs from its sources
        return "0"


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


def statistics_body(statistics: list[dict[str, Any]]) -> bytes:
    return msgspec.json.encode({"model_stats": statistics})


def allow(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        allowed = ", ".join(methods)
        raise MethodNotAllowed(f"{scope['path']} takes {allowed}", allowed)


def labelled(content_type: str, headers: Headers) -> str:
    """Return the content type, changed to mark a body with binary tensors. Raises BadRequest, UnsupportedMediaType."""
    size = ""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType("compressed bodies are not taken: leave out Content-Encoding")
        if name == SIZE_HEADER:
            size = value.decode("latin-1").strip()
    if not size:
        return content_type
    if not (size.isascii() and size.isdecimal()) or len(size) > 18:
        raise BadRequest(f"Inference-Header-Content-Length is {size[:40]!r}; allowed: bytes of the JSON header")
    return binary_type(int(size))
