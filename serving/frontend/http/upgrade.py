"""The passing of a connection to the WebSocket protocol."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.frontend.http.head import Head


def upgrade(protocol: HttpToolsProtocol, head: Head, rest: bytes) -> None:
    """Pass the connection of ``protocol`` to the WebSocket protocol, with ``rest``, the data that came after the
    head.
    """
    protocol.connections.discard(protocol)
    new: Any = protocol.ws_protocol_class(  # type: ignore[call-arg, misc]
        config=protocol.config, server_state=protocol.server_state, app_state=protocol.app_state
    )
    lines = [head.method, b" ", head.url, b" HTTP/1.1\r\n", *(b"%b: %b\r\n" % one for one in head.headers), b"\r\n"]
    new.connection_made(protocol.transport)
    new.data_received(b"".join(lines))
    protocol.transport.set_protocol(new)
    if rest:
        new.data_received(rest)
