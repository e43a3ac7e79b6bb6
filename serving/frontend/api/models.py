"""The multi-model API, with which the platform and ``serving models`` load and unload models.

    POST   /models          {"model_name": …, "url": …}   200 when the model is ready
    GET    /models          ?next_page_token=…&limit=…    {"models": […], "nextPageToken": …}
    GET    /models/{name}                                 one model
    DELETE /models/{name}                                 200 when its memory is released
    PATCH  /models/{name}   {"pin": true | false}

``POST /models/{name}/invoke`` is an ordinary invocation.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import BaseRoute, Route

from serving.errors import BadRequest, BodyTooLarge, DeadlineExceeded
from serving.frontend.api.calls import decode
from serving.frontend.error_responses import CAUGHT, Api, Failure, failure_of, json_body
from serving.frontend.supervisorlink import SupervisorLink
from serving.ipc.messages import DescribeModels, LoadModel, ModelInfo, PinModel, UnloadModel
from serving.model.names import model_name
from serving.system import log

PAGE = 100  # models on one page
LARGEST_PAGE = 1000
BODY = 1 << 15  # bytes
UNLOAD_TIME = 350.0  # seconds; the platform waits a little longer
GRACE = 30.0  # seconds that a load takes besides loading: waiting for room, unpacking
JSON = "application/json"
API = Api(
    "the server stopped before this was done",
    error_sent="a call of the multi-model API failed",
    disconnect=ClientDisconnect,
)

Endpoint = Callable[[HttpRequest], Awaitable[HttpResponse]]


class LoadBody(msgspec.Struct, forbid_unknown_fields=False):
    model_name: str
    url: str = ""


class PinBody(msgspec.Struct, forbid_unknown_fields=True):
    pin: bool


class ModelList(msgspec.Struct, rename="camel", omit_defaults=True):
    models: list[ModelInfo]
    next_page_token: str | None = None


def routes(link: SupervisorLink, load_timeout: float, body_timeout: float) -> list[BaseRoute]:
    """Return the API's routes. ``load_timeout`` is the seconds for a model to be ready, ``body_timeout`` for a body to
    arrive.
    """
    api = ModelsApi(link, load_timeout, body_timeout)
    return [
        Route("/models", guarded(api.load), methods=["POST"]),
        Route("/models", guarded(api.list), methods=["GET"]),
        Route("/models/{name:path}", guarded(api.describe), methods=["GET"]),
        Route("/models/{name:path}", guarded(api.unload), methods=["DELETE"]),
        Route("/models/{name:path}", guarded(api.pin), methods=["PATCH"]),
    ]


def guarded(endpoint: Endpoint) -> Endpoint:
    """Answer an error of ``endpoint`` in the same form as every other path."""

    async def respond(request: HttpRequest) -> HttpResponse:
        request_id = os.urandom(8).hex()
        try:
            response = await endpoint(request)
        except CAUGHT as exc:
            failure = failure_of(exc, API)
            response = HttpResponse() if failure is None else refusal(failure, request_id, exc)
        response.headers["x-request-id"] = request_id
        return response

    return respond


def refusal(failure: Failure, request_id: str, cause: BaseException) -> HttpResponse:
    level, exc = (logging.ERROR, cause) if failure.is_fault else (logging.INFO, None)
    log.emit(level, API.error_sent, exc=exc, request_id=request_id, code=failure.code, error=failure.message)
    headers = {name.decode(): value.decode() for name, value in failure.headers}
    return HttpResponse(json_body(failure, request_id), failure.status, headers, JSON)


class ModelsApi:
    """The endpoints of the multi-model API, which pass each call to the supervisor."""

    def __init__(self, link: SupervisorLink, load_timeout: float, body_timeout: float) -> None:
        self._link = link
        self._body_time = body_timeout
        self._load_time = load_timeout + GRACE

    async def load(self, request: HttpRequest) -> HttpResponse:
        body = decode(await read(request, self._body_time), LoadBody)
        name = model_name(body.model_name)
        await self._link.ask(lambda id: LoadModel(id, name, body.url), self._load_time)
        return HttpResponse(b"{}", media_type=JSON)

    async def list(self, request: HttpRequest) -> HttpResponse:
        limit = page_size(request.query_params.get("limit"))
        after = read_token(request.query_params.get("next_page_token"))
        found = (await self._link.ask(DescribeModels, self._load_time)).models
        rest = [model for model in found if model.model_name > after]
        page = rest[:limit]
        token = make_token(page[-1].model_name) if len(rest) > limit else None
        return HttpResponse(msgspec.json.encode(ModelList(page, token)), media_type=JSON)

    async def describe(self, request: HttpRequest) -> HttpResponse:
        name = model_name(request.path_params["name"])
        reply = await self._link.ask(lambda id: DescribeModels(id, name), self._load_time)
        return HttpResponse(msgspec.json.encode(reply.models[0]), media_type=JSON)

    async def unload(self, request: HttpRequest) -> HttpResponse:
        name = model_name(request.path_params["name"])
        await self._link.ask(lambda id: UnloadModel(id, name), UNLOAD_TIME)
        return HttpResponse(b"{}", media_type=JSON)

    async def pin(self, request: HttpRequest) -> HttpResponse:
        name = model_name(request.path_params["name"])
        body = decode(await read(request, self._body_time), PinBody)
        await self._link.ask(lambda id: PinModel(id, name, body.pin), self._load_time)
        return HttpResponse(b"{}", media_type=JSON)


async def read(request: HttpRequest, seconds: float) -> bytes:
    data = b""
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY:
                    raise BodyTooLarge(f"the body has more than {BODY} bytes")
    except TimeoutError:
        raise DeadlineExceeded("the body did not arrive in time") from None
    return data


def page_size(text: str | None) -> int:
    if text is None:
        return PAGE
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= LARGEST_PAGE:
        raise BadRequest(f"limit is {text[:20]!r}; allowed: 1 to {LARGEST_PAGE}")
    return int(text)


def make_token(name: str) -> str:
    """Return the token of the page after the model ``name``. It stays valid when models are loaded or unloaded."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def read_token(token: str | None) -> str:
    if not token:
        return ""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as exc:
        raise BadRequest("next_page_token is none that this server gave") from exc
