"""Cycle: one request for ASGI and its response, built as uvicorn builds them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.errors import BadRequest
from serving.frontend.http.head import Head
from serving.frontend.http.headers import Headers

if TYPE_CHECKING:
    from serving.frontend.http.exchange import Exchange
    from serving.frontend.http.protocol import HttpProtocol


class Cycle(RequestResponseCycle):
    """One request and its response. A response that begins before the whole request has arrived ends the connection.
    ``sent`` is the number of ASGI messages of the response so far.
    """

    sent = 0

    async def send(self, message: Any) -> None:
        self.sent += 1
        if self.more_body and not self.response_started:
            self.keep_alive = False
        await super().send(message)


def cycle_of_head(protocol: HttpProtocol, head: Head) -> Cycle:
    """Return the cycle for a request's head. Raises BadRequest where its target is no URL."""
    try:
        url = httptools.parse_url(head.url)
    except httptools.HttpParserInvalidURLError:
        raise BadRequest("this is not the address of a request") from None
    path = (url.path or b"").decode("ascii")
    method = head.method.decode("ascii")
    scope = scope_of(protocol, method, unquote(path) if "%" in path else path, url.path or b"", head.headers)
    scope["query_string"] = url.query or b""
    scope["http_version"] = head.version
    return make(protocol, scope, head.keep_alive, head.expects)


def cycle_of(protocol: HttpProtocol, exchange: Exchange, complete: bool) -> Cycle:
    """Return the cycle with which ASGI continues a plain invocation; ``complete``: its whole body has arrived."""
    url, headers = exchange.plain.url, exchange.plain.headers
    if complete:
        headers = with_length(headers, exchange.size)
    return make(protocol, scope_of(protocol, "POST", url.decode("ascii"), url, headers), exchange.keep_alive)


def scope_of(protocol: HttpProtocol, method: str, path: str, raw_path: bytes, headers: Headers) -> Any:
    return {
        "type": "http",
        "asgi": {"version": protocol.asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "server": protocol.server,
        "client": protocol.client,
        "scheme": protocol.scheme,
        "root_path": protocol.root_path,
        "headers": headers,
        "state": protocol.app_state.copy(),
        "method": method,
        "path": protocol.root_path + path,
        "raw_path": protocol.root_path.encode("ascii") + raw_path,
        "query_string": b"",
    }


def make(protocol: HttpProtocol, scope: Any, keep_alive: bool, expects: bool = False) -> Cycle:
    """Return a cycle for ``scope``; ``expects``: the client waits for a 100 Continue."""
    cycle = Cycle(
        scope=scope,
        transport=protocol.sending,  # type: ignore[arg-type]  # all of a transport that it asks for
        flow=protocol.flow,
        logger=protocol.logger,
        access_logger=protocol.access_logger,
        access_log=protocol.access_log,
        default_headers=protocol.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=expects,
        keep_alive=keep_alive,
        on_response=protocol.on_response_complete,
    )
    scope["extensions"] = protocol.extensions(cycle)
    return cycle


def with_length(headers: Headers, size: int) -> Headers:
    """Return the headers with ``size``, in bytes, as the Content-Length."""
    value = b"%d" % size
    return [(name, value if name == b"content-length" else old) for name, old in headers]
