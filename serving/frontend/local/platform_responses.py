"""Platform responses: the container's response as the platform passes it on, and the errors of the platform itself."""

from __future__ import annotations

import msgspec
from starlette.types import Send

from serving.errors import ModelLoading
from serving.frontend.http.headers import Headers
from serving.frontend.local.call import Call, Ending

SHOWN = 2048  # characters of the container's response that an error quotes
VARIANT = "AllTraffic"
PASSED = {
    b"content-type",
    b"x-amzn-sagemaker-custom-attributes",
    b"x-amzn-sagemaker-new-session-id",
    b"x-amzn-sagemaker-closed-session-id",
}
TIMED_OUT = "Your invocation timed out while waiting for a response from container"
CRASHED = "Internal Server Error"  # an HTTP server's response for an application that raised


class ModelErrorBody(msgspec.Struct, rename="pascal"):
    message: str
    original_status_code: int
    original_message: str
    log_stream_arn: str


async def reply(send: Send, endpoint: str, variant: str, call: Call, ending: Ending) -> None:
    """Send the client's response for the container's, or for the lack of one."""
    if ending is Ending.GONE:
        return
    if ending is Ending.COMPLETE and call.succeeded():
        headers = [(name, value) for name, value in call.headers if name in PASSED]
        await respond(send, 200, [*headers, invoked(variant)], bytes(call.body))
    elif ending is Ending.COMPLETE and error_code(call) == ModelLoading.code:
        message = "The model is being loaded; try again"
        await respond_json(send, 429, "ModelNotReadyException", {"Message": message})
    else:
        await respond_json(send, 424, "ModelError", model_error(endpoint, call, ending))


def invoked(variant: str) -> tuple[bytes, bytes]:
    return (b"x-amzn-invoked-production-variant", variant.encode())


def error_code(call: Call) -> str:
    try:
        return str(msgspec.json.decode(call.body)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


def model_error(endpoint: str, call: Call, ending: Ending) -> ModelErrorBody:
    """Return the platform's error body for a call without a good response."""
    if ending is Ending.COMPLETE:
        return quoted(endpoint, call.status, call.body.decode("utf-8", "replace")[:SHOWN])
    if ending is Ending.LATE:
        return quoted(endpoint, 0, TIMED_OUT)
    if ending is Ending.LEFT and not call.status:
        return quoted(endpoint, 500, CRASHED)
    broken = "Received server error (500) from primary and could not load the entire response body"
    return ModelErrorBody(broken, 500, "", log_stream(endpoint))


def quoted(endpoint: str, status: int, original: str) -> ModelErrorBody:
    kind = "client" if 400 <= status < 500 else "server"
    message = f'Received {kind} error ({status}) from primary with message "{original}".'
    return ModelErrorBody(message, status, original, log_stream(endpoint))


def log_stream(endpoint: str) -> str:
    return f"arn:aws:logs:local:000000000000:log-group:/aws/sagemaker/Endpoints/{endpoint}"


async def respond_json(send: Send, status: int, kind: str, body: object) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-amzn-errortype", kind.encode())]
    await respond(send, status, headers, msgspec.json.encode(body))


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
