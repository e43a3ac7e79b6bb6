"""LocalRuntime: the client's side of the platform, so that boto3 can call this server on a desk.

``POST /endpoints/{name}/invocations`` is answered as ``InvokeEndpoint`` would be: by asking the container's side, in
this process, and turning what it says into what a client sees. Nothing leaves the machine; credentials are not looked
at.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import BadRequest, ModelLoading
from serving.frontend.headers import Headers, read_headers
from serving.headers import check_all

PATH = re.compile("/endpoints/([^/]+)/invocations")
ENDPOINT = re.compile("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
CUT = 60.2  # seconds after which the platform no longer waits for its container
SHOWN = 2048  # characters of the container's own words in an error
VARIANT = "AllTraffic"
PASSED = {
    b"content-type",
    b"x-amzn-sagemaker-custom-attributes",
    b"x-amzn-sagemaker-new-session-id",
    b"x-amzn-sagemaker-closed-session-id",
}


class ModelErrorBody(msgspec.Struct, rename="pascal"):
    message: str
    original_status_code: int
    original_message: str
    log_stream_arn: str


@dataclass(slots=True)
class Captured:
    """What the container's side has answered."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


class LocalRuntime:
    """``container`` is the server's own application."""

    def __init__(self, container: ASGIApp) -> None:
        self._container = container
        self._tasks: set[asyncio.Task[None]] = set()

    @staticmethod
    def takes(path: str) -> bool:
        return PATH.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = PATH.fullmatch(scope["path"])
        assert match is not None
        if scope["method"] != "POST":
            await answer(send, 400, "ValidationError", {"Message": "InvokeEndpoint is a POST"})
            return
        try:
            sagemaker = validated(match[1], scope)
        except BadRequest as error:
            await answer(send, 400, "ValidationError", {"Message": f"1 validation error detected: {error.message}"})
            return
        captured = Captured()
        inner = {**scope, "path": "/invocations", "raw_path": b"/invocations"}
        task = asyncio.ensure_future(self._ask(inner, receive, captured))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=CUT)
        await reply(send, match[1], sagemaker.get("target-variant", VARIANT), captured if task.done() else None)

    async def _ask(self, scope: Scope, receive: Receive, captured: Captured) -> None:
        await self._container(scope, receive, captured.send)


def validated(endpoint: str, scope: Scope) -> dict[str, str]:
    """The SageMaker headers of a call. Raises BadRequest for what the platform would refuse."""
    if not ENDPOINT.fullmatch(endpoint):
        raise BadRequest(f"EndpointName is {endpoint[:80]!r}; allowed: letters and digits, hyphens between them, 63")
    content_type, accept, sagemaker = read_headers(scope["headers"])
    check_all(content_type, accept, sagemaker)
    return sagemaker


async def reply(send: Send, endpoint: str, variant: str, captured: Captured | None) -> None:
    """Turn the container's answer, None if there was none in time, into the client's."""
    if captured is None or captured.status == 0:
        await model_error(send, endpoint, 0, "Your invocation timed out while waiting for a response from container")
    elif 200 <= captured.status < 300:
        headers = [(name, value) for name, value in captured.headers if name in PASSED]
        headers.append((b"x-amzn-invoked-production-variant", variant.encode()))
        await respond(send, 200, headers, bytes(captured.body))
    elif error_code(captured) == ModelLoading.code:
        message = "The model is being loaded; try again"
        await answer(send, 429, "ModelNotReadyException", {"Message": message})
    else:
        await model_error(send, endpoint, captured.status, captured.body.decode("utf-8", "replace")[:SHOWN])


def error_code(captured: Captured) -> str:
    try:
        return str(msgspec.json.decode(captured.body)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


async def model_error(send: Send, endpoint: str, status: int, original: str) -> None:
    kind = "client" if 400 <= status < 500 else "server"
    message = f'Received {kind} error ({status}) from primary with message "{original}".'
    arn = f"arn:aws:logs:local:000000000000:log-group:/aws/sagemaker/Endpoints/{endpoint}"
    await answer(send, 424, "ModelError", ModelErrorBody(message, status, original, arn))


async def answer(send: Send, status: int, kind: str, body: object) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-amzn-errortype", kind.encode())]
    await respond(send, status, headers, msgspec.json.encode(body))


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
