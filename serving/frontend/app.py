"""The ASGI application: ``/ping`` and ``/invocations`` by hand, everything else through Starlette."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from serving.config.config import Config
from serving.config.settings import OFF
from serving.errors import (
    MethodNotAllowed,
    ModelLoading,
)
from serving.frontend.api import models
from serving.frontend.api.open_inference import OpenInference
from serving.frontend.bodies import Bodies, Tidy, rest
from serving.frontend.counting.counts import Counts, NoCounts
from serving.frontend.counting.pulse import Pulse
from serving.frontend.error_responses import Failure, json_body
from serving.frontend.health import ping
from serving.frontend.http.headers import id_of, read_headers, request_id_header
from serving.frontend.invocation.asgi_border import AsgiInvocations
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.local.runtime import LocalRuntime
from serving.frontend.responses import JSON, Responses
from serving.frontend.routing.invocations import Invocations
from serving.frontend.routing.replicas import Replicas
from serving.frontend.websocket.conversations import Conversations
from serving.http.open_inference import is_open_inference
from serving.http.paths import INVOCATIONS, invoked_model
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.model.model import DEFAULT_MODEL
from serving.system import memory

if TYPE_CHECKING:
    from serving.frontend.api.metrics import Metrics

PAYLOAD = 6  # megabytes of one batch transform request, which is also the platform's default
PAYLOAD_LIMIT = 100  # megabytes of all concurrent requests together
MEGABYTE = 1_000_000
KNOWN_TIME = 5.0  # seconds for the supervisor to say where the model is
GARBAGE = 20_000  # new objects before a garbage collection; requests leave no cycles


class App:
    """The ASGI application of one HTTP worker."""

    def __init__(self, config: Config, runtime: Runtime, board: Scoreboard) -> None:
        self._many = config.many
        self.drain_timeout = config.drain_timeout
        self._max_body = config.max_body
        room = memory.share(config.body_memory, memory.total()) // config.http_workers
        self._tidy = Tidy()
        self.bodies = Bodies(room, rest, tidy=self._tidy)
        self._board = board
        self._runtime = runtime
        self._replicas = Replicas(runtime, board)
        self._invocations = Invocations(self._replicas, config.request_timeout, runtime.instance, config.sessions)
        self._responses = Responses(config, board)
        self.endpoint = Endpoint(
            config, board, self._replicas, self._invocations, self._responses, self._new_id, self.bodies
        )
        self._open_inference = OpenInference(config, self.endpoint)
        self._conversations = Conversations(config, self.endpoint)
        invocations = AsgiInvocations(self.endpoint)
        self._local = LocalRuntime(invocations, config.local_input, config.local_output) if config.local else None
        self._slot: Slot
        self._models = config.metrics_models
        self._metrics: Metrics | None = None
        self._counts_requests = config.metrics != OFF
        self._rest = Starlette(
            routes=[*self._observed(config), *self._routes(config)],
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

    def _observed(self, config: Config) -> list[BaseRoute]:
        return [Route("/metrics", self._scrape, methods=["GET"])] if config.metrics != OFF else []

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

    async def _scrape(self, request: HttpRequest) -> HttpResponse:
        if self._metrics is None:
            self._metrics = await asyncio.to_thread(self._make_metrics)
        text, content_type = self._metrics.render(request.headers.get("accept", ""))
        head = {"x-request-id": self._new_id(), "content-type": content_type}
        return HttpResponse(text, headers=head)

    def _make_metrics(self) -> Metrics:
        # Not before the first scrape, since the start does without; and on a thread, since the import takes a while.
        from serving.frontend.api.metrics import Metrics

        return Metrics(self._board, self._models)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._id_prefix = os.urandom(8).hex()
        self._slot = await self._replicas.start()
        self._slot.in_flight = 0
        self.endpoint.slot = self._slot
        region = self._board.metrics.http(self._slot.index)
        self.endpoint.counts = Counts(region) if self._counts_requests else NoCounts()
        gc.freeze()
        gc.set_threshold(GARBAGE)
        memory.keep_freed()
        self._tidy.begin()
        pulse = Pulse(region)
        if self._counts_requests:
            pulse.start()
        yield
        pulse.stop()
        self._replicas.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else None
        if path == "/ping":
            await self._ping(scope, send)
        elif scope["type"] == "websocket":
            await self._converse(scope, receive, send)
        elif path is not None and (path == INVOCATIONS or (self._many and invoked_model(path) is not None)):
            # Every POST is an exchange, which does not come here.
            request_id = id_of(read_headers(scope["headers"])[2], self._new_id)
            await self._responses.send_error(send, MethodNotAllowed(f"{path} takes POST"), request_id)
        elif self._local is not None and path is not None and self._local.takes(path):
            await self._local(scope, receive, send)
        elif path is not None and is_open_inference(path):
            await self._infer(scope, receive, send)
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
            error = MethodNotAllowed("/ping takes GET, HEAD and POST", "GET, HEAD, POST")
            await self._responses.send_error(send, error, self._new_id())
            return
        status, body = ping(self._board.read_header(), time.monotonic())
        await self._responses.send_body(send, status, JSON, body, [request_id_header(self._new_id())])

    def _new_id(self) -> str:
        return f"{self._id_prefix}-{next(self._numbers):x}"


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
