"""Cycle: a plain invocation as the request that uvicorn would have made of it, for ASGI to go on with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.frontend.exchange import Exchange
from serving.frontend.headers import Headers

if TYPE_CHECKING:
    from serving.frontend.direct_protocol import DirectProtocol


def cycle_of(protocol: DirectProtocol, exchange: Exchange, complete: bool) -> RequestResponseCycle:
    """``complete`` says whether all of the body is there."""
    path, headers = exchange.plain.url.decode("ascii"), exchange.plain.headers
    scope: Any = {
        "type": "http",
        "asgi": {"version": protocol.asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "server": protocol.server,
        "client": protocol.client,
        "scheme": protocol.scheme,
        "root_path": protocol.root_path,
        "headers": with_length(headers, exchange.size) if complete else headers,
        "state": protocol.app_state.copy(),
        "method": "POST",
        "path": protocol.root_path + path,
        "raw_path": protocol.root_path.encode("ascii") + exchange.plain.url,
        "query_string": b"",
    }
    cycle = RequestResponseCycle(
        scope=scope,
        transport=protocol.transport,
        flow=protocol.flow,
        logger=protocol.logger,
        access_logger=protocol.access_logger,
        access_log=protocol.access_log,
        default_headers=protocol.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=exchange.keep_alive,
        on_response=protocol.on_response_complete,
    )
    scope["extensions"] = protocol.extensions(cycle)
    return cycle


def with_length(headers: Headers, size: int) -> Headers:
    """The same, said of a body of ``size`` bytes."""
    value = b"%d" % size
    return [(name, value if name == b"content-length" else old) for name, old in headers]
