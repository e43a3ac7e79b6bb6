"""The WebSocket handshake: from a request's head to an ASGI scope and the response that accepts it. No I/O."""

from __future__ import annotations

import asyncio
import http
import re
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import Message, Scope
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from websockets.exceptions import InvalidHeader
from websockets.http11 import Request, Response

from serving.errors import BadRequest, CodedError, ServingError
from serving.frontend.http.headers import Headers
from serving.frontend.websocket.framing import Framing

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def open_handshake(framing: Framing, head: bytes) -> Response:
    """Return the response that would accept. Raises BadRequest, or CodedError 426 for another version of the
    protocol.
    """
    framing.receive_data(head)
    request = next(iter(framing.events_received()), None)
    if isinstance(request, Request):
        response = framing.accept(request)
        if response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS:
            return response
    framing.data_to_send()  # drops the library's own refusal
    raise refusal(framing.handshake_exc)


def refusal(reason: BaseException | None) -> ServingError:
    is_version = isinstance(reason, InvalidHeader) and reason.name == "Sec-WebSocket-Version"
    causes: list[str] = []
    while reason is not None:
        causes.append(str(reason).encode("ascii", "backslashreplace").decode())
        reason = reason.__cause__
    message = f"this is no WebSocket handshake: {'; '.join(causes)}"
    return CodedError(426, "upgrade_required", message) if is_version else BadRequest(message)


def scope_of(head: bytes, root_path: str, **more: Any) -> Scope:
    """Return the ASGI scope of a request's head. Raises BadRequest for a target that is no URL."""
    line, *lines = head[: head.index(b"\r\n\r\n")].split(b"\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    try:
        url = httptools.parse_url(line.split(b" ")[1])
    except httptools.HttpParserInvalidURLError:
        raise BadRequest("the request's target is no URL") from None
    raw_path = url.path or b"/"
    return {
        "type": "websocket",
        "http_version": "1.1",
        "root_path": root_path,
        "path": root_path + unquote(raw_path.decode("latin-1")),
        "raw_path": root_path.encode() + raw_path,
        "query_string": url.query or b"",
        "headers": headers,
        "subprotocols": subprotocols(headers),
        "extensions": {"websocket.http.response": {}},
        **more,
    }


def subprotocols(headers: Headers) -> list[str]:
    offers = [value for name, value in headers if name == b"sec-websocket-protocol"]
    names = b",".join(offers).decode("latin-1").split(",")
    return [name.strip() for name in names if name.strip()]


def connection_scope(transport: asyncio.Transport, config: Config) -> dict[str, Any]:
    """Return what an ASGI scope says of the connection, and of uvicorn."""
    return {
        "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
        "scheme": "wss" if is_ssl(transport) else "ws",
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
    }


def complete(response: Response, message: Message, default_headers: Headers) -> None:
    """Give the response that accepts what ``websocket.accept`` says. Raises RuntimeError for what is no header."""
    headers = default_headers + list(message.get("headers", []))
    if message.get("subprotocol"):
        headers.append((b"sec-websocket-protocol", message["subprotocol"].encode("latin-1")))
    response.headers.pop("Date", None)  # uvicorn has its own
    add_headers(response, headers)


def add_headers(response: Response, headers: Headers) -> None:
    check(headers)
    for name, value in headers:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")


def check(headers: Headers) -> None:
    """Check headers that the application gave. Raises RuntimeError for a name or value that could split a header."""
    for name, value in headers:
        if not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            raise RuntimeError(f"{name!r}: {value!r} is no header")
