"""The ASGI application: ``/ping`` and ``/invocations`` by hand, everything else through Starlette."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.config.config import Config
from serving.deadline import Deadline
from serving.errors import (
    CodedError,
    Draining,
    MethodNotAllowed,
    ModelLoading,
    NotFound,
)
from serving.frontend.answers import IS_THERE, JSON, Answers
from serving.frontend.api import metrics, models
from serving.frontend.api.open_inference import OpenInference
from serving.frontend.bodies import Bodies, Held, Tidy, rest
from serving.frontend.error_responses import CAUGHT, Failure, json_body
from serving.frontend.health import ping
from serving.frontend.http.direct import Direct
from serving.frontend.http.headers import SentHeaders, id_of, read_encoding, read_headers, request_id_header
from serving.frontend.http.plain import Plain
from serving.frontend.local.runtime import LocalRuntime
from serving.frontend.receiving import ClientGone, read_body, watch
from serving.frontend.routing.connection import ReplicaLost
from serving.frontend.routing.invocations import Invocations
from serving.frontend.routing.replicas import Replicas
from serving.frontend.routing.stream import Streamed
from serving.frontend.websocket.conversations import Conversations
from serving.http.headers import NEW_SESSION, check_all
from serving.http.open_inference import is_open_inference
from serving.http.paths import INVOCATIONS, is_own
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.model.model import DEFAULT_MODEL
from serving.model.names import model_name, target_name
from serving.request import Request, Response
from serving.system import memory

PAYLOAD = 6  # megabytes of one batch transform request, which is also the platform's default
PAYLOAD_LIMIT = 100  # megabytes of all concurrent requests together
MEGABYTE = 1_000_000
KNOWN_TIME = 5.0  # seconds for the supervisor to say where the model is
GARBAGE = 20_000  # new objects before a garbage collection; requests leave no cycles
MODELS, INVOKE = "/models/", "/invoke"
NO_REQUEST = Request()


@dataclass(slots=True)
class Ask:
    """A request that is being received; ``request`` is set once the whole body has been read."""

    arrival: float
    request_id: str = ""
    request: Request = NO_REQUEST


class App:
    """The ASGI application of one HTTP worker."""

    def __init__(self, config: Config, runtime: Runtime, board: Scoreboard) -> None:
        self._local = LocalRuntime(self, config.local_input, config.local_output) if config.local else None
        self._many = config.many
        self._stream_timeout = config.stream_timeout
        self.drain_timeout = config.drain_timeout
        self._max_body = config.max_body
        room = memory.share(config.body_memory, memory.total()) // config.http_workers
        self._tidy = Tidy()
        self.bodies = Bodies(room, rest, tidy=self._tidy)
        self._board = board
        self._runtime = runtime
        self._replicas = Replicas(runtime, board)
        self._invocations = Invocations(self._replicas, config.request_timeout, runtime.instance, config.sessions)
        self._answers = Answers(config, board)
        self._conversations = Conversations(config, board, self._invocations, self._model_of, self._new_id, self.bodies)
        self._open_inference = OpenInference(
            config, board, self._replicas, self._invocations, self._answers, self._new_id, self.bodies
        )
        self.direct = Direct(
            config,
            board,
            self._replicas,
            self._invocations,
            self._answers,
            self._new_id,
            self.bodies,
            self.resume,
            self.go_on,
        )
        self._slot: Slot
        self._rest = Starlette(
            routes=[Route("/metrics", self._metrics, methods=["GET"]), *self._routes(config)],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: refuse},
        )
        self._numbers = itertools.count(1)

    def in_flight(self) -> int:
        """Return the number of this process's requests that are not answered yet."""
        return self._slot.in_flight

    def must_end(self) -> bool:
        """Return whether the time for draining is over, or the supervisor is gone."""
        return self._board.has_given_up or self._replicas.link.is_lost

    def _routes(self, config: Config) -> list[BaseRoute]:
        if config.many:
            return models.routes(self._replicas.link, config.load_timeout, config.request_timeout)

        async def execution_parameters(_: HttpRequest) -> HttpResponse:
            try:
                async with asyncio.timeout(KNOWN_TIME):
                    placement = await self._replicas.placement(DEFAULT_MODEL, False, 0.0)
            except TimeoutError:
                raise ModelLoading("the model is not known yet") from None
            return HttpResponse(
                batch_parameters(placement.capacity, self._max_body, placement.paths.single), media_type=JSON
            )

        return [Route("/execution-parameters", models.guarded(execution_parameters), methods=["GET"])]

    async def _metrics(self, _: HttpRequest) -> HttpResponse:
        texts = await asyncio.to_thread(self._runtime.metrics)
        head = {"x-request-id": self._new_id()}
        return HttpResponse(metrics.render(self._board, texts), headers=head, media_type=metrics.CONTENT_TYPE)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._id_prefix = os.urandom(8).hex()
        self._slot = await self._replicas.start()
        self._slot.in_flight = 0
        self.direct.slot = self._slot
        gc.freeze()
        gc.set_threshold(GARBAGE)
        memory.keep_freed()
        self._tidy.begin()
        yield
        self._replicas.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else None
        if path == INVOCATIONS:
            await self._invoke(scope, receive, send)
        elif path == "/ping":
            await self._ping(scope, send)
        elif self._local is not None and path is not None and self._local.takes(path):
            await self._local(scope, receive, send)
        elif self._many and path is not None and is_invoke(path):
            await self._invoke(scope, receive, send, path[len(MODELS) : -len(INVOKE)])
        elif scope["type"] == "websocket":
            await self._converse(scope, receive, send)
        elif path is not None and is_open_inference(path):
            await self._infer(scope, receive, send)
        elif path is not None and scope["method"] == "POST" and not is_own(path):
            await self._invoke(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._slot.enter()
        try:
            await self._conversations(scope, receive, send)
        finally:
            self._slot.leave()

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._slot.enter()
        try:
            await self._open_inference(scope, receive, send)
        finally:
            self._slot.leave()

    async def _ping(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD", "POST"):
            error = MethodNotAllowed("/ping takes GET, HEAD and POST")
            await self._answers.send_error(send, error, self._new_id(), b"GET, HEAD, POST")
            return
        status, body = ping(self._board.read_header(), time.monotonic())
        await self._answers.send_body(send, status, JSON, body, [request_id_header(self._new_id())])

    async def _invoke(self, scope: Scope, receive: Receive, send: Send, model: str | None = None) -> None:
        # "Accepted" is decided here, when the head has arrived: what comes after a SIGTERM is refused.
        draining = self._board.is_draining
        self._slot.enter()
        try:
            await self._answer(scope, receive, send, draining, model)
        finally:
            self._slot.leave()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, draining: bool, named: str | None) -> None:
        ask, held = Ask(self.direct.clock()), Held(self.bodies)

        async def work() -> Response | Streamed:
            content_type, accept, sagemaker = read_headers(scope["headers"])
            ask.request_id = id_of(sagemaker, self._new_id)
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['path']} takes POST")
            check_all(content_type, accept, sagemaker)
            packed = read_encoding(scope["headers"])
            continues = sagemaker.get("session-id", NEW_SESSION) != NEW_SESSION
            load = self._many and named is None and not draining and not continues
            path = INVOCATIONS if named is not None else scope["path"]
            model = DEFAULT_MODEL if not self._many else await self._target(named, sagemaker, path)
            if draining and self._replicas.known(model) is None:
                raise Draining("the server is stopping")
            deadline = await self._invocations.deadline(model, load, ask.arrival, continues)
            if path != INVOCATIONS:
                await self._invocations.takes(model, path, load, deadline)
            body = await read_body(scope["headers"], receive, self._max_body, deadline, held)
            if draining:
                raise Draining("the server is stopping")
            told, sent = MappingProxyType(sagemaker), SentHeaders(scope["headers"])
            ask.request = Request(
                body,
                content_type,
                accept,
                ask.request_id,
                deadline,
                model,
                told,
                path=path,
                content_encoding=packed,
                headers=sent,
            )
            return await watch(self._invocations.invoke(ask.request, load), receive)

        try:
            await self._settle(scope, receive, send, ask, work, held)
        finally:
            held.release()

    def go_on(self, plain: Plain, arrival: float, request_id: str, expires: float, held: Held) -> ASGIApp:
        """Return the ASGI application that continues a request that was accepted without ASGI and is not yet sent to a
        replica. It is in flight already; ``held`` counts what has arrived of its body.
        """

        async def accepted(scope: Scope, receive: Receive, send: Send) -> None:
            ask = Ask(arrival, request_id)

            async def work() -> Response | Streamed:
                deadline = Deadline(expires)
                body = await read_body(scope["headers"], receive, self._max_body, deadline, held)
                told, sent = MappingProxyType(plain.sagemaker), SentHeaders(plain.headers)
                ask.request = Request(
                    body, plain.content_type, plain.accept, request_id, deadline, plain.model, told, headers=sent
                )
                return await watch(self._invocations.invoke(ask.request, plain.load), receive)

            try:
                await self._settle(scope, receive, send, ask, work, held)
            finally:
                held.release()
                self._slot.leave()

        return accepted

    def resume(
        self, request: Request, arrival: float, load: bool, reply: Response | Streamed | ReplicaLost, held: Held
    ) -> ASGIApp:
        """Return the ASGI application that continues a request after a replica's ``reply``; it is in flight already."""
        ask = Ask(arrival, request.request_id, request)

        async def resumed(scope: Scope, receive: Receive, send: Send) -> None:
            async def work() -> Response | Streamed:
                if isinstance(reply, ReplicaLost):
                    return await watch(self._invocations.invoke(ask.request, load, reply), receive)
                return reply

            try:
                await self._settle(scope, receive, send, ask, work, held)
            finally:
                self._slot.leave()
                held.release()

        return resumed

    async def _settle(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        ask: Ask,
        work: Callable[[], Coroutine[None, None, Response | Streamed]],
        held: Held,
    ) -> None:
        """Send the response that ``work`` returns, or its failure, exactly once."""
        try:
            response = await work()
            ask.request = msgspec.structs.replace(ask.request, body=b"")  # it need not be sent once more
            if not isinstance(response, Streamed):
                self._answers.hold(scope, response.body, held)
        except CAUGHT as exc:
            await self._answers.send_error(send, exc, ask.request_id or self._new_id())
        else:
            if isinstance(response, Streamed):
                until = max(ask.request.deadline.at, ask.arrival + self._stream_timeout)
                await self._answers.stream(scope, receive, send, response, ask.request, until, held)
            elif response.new_session is not None:
                await self._announce(scope, receive, send, response, ask.request)
            else:
                await self._answers.send(send, response, ask.request)

    async def _announce(self, scope: Scope, receive: Receive, send: Send, response: Response, request: Request) -> None:
        """Send a response that announces a new session; the session is ended if the client leaves before it has all of
        it.
        """

        async def tell() -> None:
            is_there = scope.get("extensions", {}).get(IS_THERE)
            if is_there is not None and not await is_there():
                raise ClientGone
            await self._answers.send(send, response, request)

        try:
            await watch(tell(), receive)
        except ClientGone:
            assert response.new_session is not None
            self._replicas.disown(request.model, response.new_session)

    async def _target(self, named: str | None, sagemaker: dict[str, str], path: str = INVOCATIONS) -> str:
        """Return the model named by the path, else by the header, else the default model. Raises NotFound for a path
        that is not the server's own where there is none of these.
        """
        if named is not None:
            return model_name(named)
        target = sagemaker.get("target-model", "")
        if target:
            return target_name(target)
        try:
            return await self._invocations.default_model()
        except CodedError as error:
            if path == INVOCATIONS or error.status != 400:
                raise
            raise NotFound(f"POST {path} is not served here") from error

    async def _model_of(self, scope: Scope) -> str:
        """Return the model that a WebSocket is for. Raises a ServingError."""
        content_type, accept, sagemaker = read_headers(scope["headers"])
        check_all(content_type, accept, sagemaker)
        return DEFAULT_MODEL if not self._many else await self._target(None, sagemaker)

    def _new_id(self) -> str:
        return f"{self._id_prefix}-{next(self._numbers):x}"


def is_invoke(path: str) -> bool:
    """Return whether the path is ``/models/{name}/invoke``; a model may itself be called ``invoke``."""
    return path.startswith(MODELS) and path.endswith(INVOKE) and len(path) > len(MODELS + INVOKE)


def batch_parameters(capacity: int, max_body: int, single: bool) -> bytes:
    """Return the execution parameters for a batch transform job that sets none: as many concurrent requests as the
    replicas work on, and one record per request where the model takes a ``single`` one.

    The platform requires the product of requests and megabytes to be 100 at most, and takes 0 megabytes for no limit.
    """
    megabytes = max(1, min(PAYLOAD, max_body // MEGABYTE)) if max_body else PAYLOAD
    transforms = max(1, min(capacity, PAYLOAD_LIMIT // megabytes))
    strategy = "SINGLE_RECORD" if single else "MULTI_RECORD"
    parameters = {"MaxConcurrentTransforms": transforms, "BatchStrategy": strategy, "MaxPayloadInMB": megabytes}
    return msgspec.json.encode(parameters)


async def refuse(request: HttpRequest, exc: Exception) -> HttpResponse:
    """Answer 404 and 405 for what no route takes, in the same form as every other error."""
    assert isinstance(exc, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "bad_request")
    failure = Failure(exc.status_code, code, f"{request.method} {request.url.path} is not served here")
    request_id = os.urandom(8).hex()
    headers = {**(exc.headers or {}), "x-request-id": request_id}
    return HttpResponse(json_body(failure, request_id), exc.status_code, headers, JSON)
