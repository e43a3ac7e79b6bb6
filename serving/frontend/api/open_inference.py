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

import time
from importlib import metadata
from typing import Any, NamedTuple

import msgspec
from starlette.types import Receive, Scope, Send

from serving.config.config import Config
from serving.deadline import Deadline
from serving.errors import (
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
from serving.frontend.api.model_repository import READY_TIME, ModelRepository, index_filter
from serving.frontend.bodies import BodyReservation
from serving.frontend.counting.tally import Tally, counted
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
from serving.ipc.messages import ListModels
from serving.ipc.scoreboard import State
from serving.model.model import DEFAULT_MODEL
from serving.model.names import model_name
from serving.request import Request, Response, media_type

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
API = Api(STOPPED, "a call of the Open Inference Protocol failed")


class Asked(NamedTuple):
    """An inference. ``draining``: it arrived while the server was stopping. ``arrival`` is an instant."""

    model: str
    deadline: Deadline
    arrival: float
    draining: bool
    request_id: str


class OpenInference:
    """The ASGI application for the paths below ``/v2``."""

    def __init__(self, config: Config, endpoint: Endpoint) -> None:
        self._bodies = endpoint.bodies
        self._endpoint = endpoint
        self._repository = ModelRepository(config, endpoint)
        self._version = installed_version()
        self._many = config.many
        self._loads = config.many and not config.multi_model  # on a multi-model endpoint the platform loads models
        self._max_body = config.max_body
        self._body_time = config.request_timeout
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
            await self._responses.send_body(
                send, 200, JSON, statistics_body(await self._repository.all_statistics(request_id))
            )
        elif (target := model_path(path)) is not None:
            try:
                await self._model(target, scope, receive, send, request_id)
            except ServingError as error:
                raise tritonwords.of_model(error, target.model) from error
        elif (target := repository_path(path)) is not None:
            allow(scope, "POST")
            await self._repository.load_or_unload(target, await self._control_body(scope, receive))
            await self._responses.send_body(send, 200, JSON, b"")
        elif path == f"{PREFIX}/repository/index":
            allow(scope, "POST")
            only_ready = index_filter(await self._control_body(scope, receive))
            await self._responses.send_body(send, 200, JSON, await self._repository.index(request_id, only_ready))
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
            found = await self._repository.statistics(model, scope["path"], request_id)
            await self._responses.send_body(send, 200, JSON, statistics_body(found))
            return
        with counted(self._endpoint.counts, model, arrival, API) as tally:
            asked = Asked(model, deadline, arrival, draining, request_id)
            await self._invoke(asked, tally, scope, receive, send)

    async def _invoke(self, asked: Asked, tally: Tally, scope: Scope, receive: Receive, send: Send) -> None:
        content_type, accept, sagemaker = read_headers(scope["headers"])
        check_all(content_type, accept, sagemaker)
        content_type = labelled(content_type, scope["headers"])
        model, deadline, path = asked.model, asked.deadline, scope["path"]
        reservation = BodyReservation(self._bodies)
        try:
            body = await read_body(scope["headers"], receive, self._max_body, deadline, reservation)
            tally.received = len(body)
            if asked.draining:
                raise Draining("the server is stopping")
            sent = SentHeaders(scope["headers"])
            request = Request(body, content_type, accept, asked.request_id, deadline, model, path=path, headers=sent)
            response = await watch(self._invocations.invoke(request, self._loads), receive)
            del body  # it will not be sent again: release its memory
            request = msgspec.structs.replace(request, body=b"")
            if isinstance(response, Streamed):
                until = max(deadline.at, asked.arrival + self._stream_timeout)
                await self._responses.stream(scope, receive, send, response, request, until, reservation)
            else:
                self._responses.hold(scope, response.body, reservation)
                tally.status, tally.sent = response.status, len(response.body)
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
            placement = await self._repository.place_of(model)
        except CodedError as error:
            if not self._loads or error.code != ModelNotLoaded.code:
                raise
            await self._check_listed(model, version)
            return False
        if not placement.replicas:
            raise ModelLoading(f"model {model} is not ready")
        return PREFIX in placement.paths.post

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

    async def _speaks(self, model: str, deadline: Deadline) -> None:
        try:
            await self._invocations.takes(model, PREFIX, self._loads, deadline)
        except NotFound:
            raise BadRequest(
                "the handler of this model does not speak the Open Inference Protocol: POST /invocations"
            ) from None


def installed_version() -> str:
    try:
        return metadata.version("serving")
    except metadata.PackageNotFoundError:  # it runs from its sources
        return "0"


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
