"""AsgiTurn: one request for the ASGI application, which answers everything but pings and invocations."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.errors import ServingError
from serving.frontend.http.head import Head
from serving.frontend.http.sending import CUT_TIME, Sending
from serving.frontend.http.target import read_target
from serving.frontend.responses import CUT, TRANSPORT, UNTIL_CLOSE
from serving.request import Body


class AsgiTurn(RequestResponseCycle):
    """One request and its response. A response that begins before the whole request has arrived ends the connection."""

    sent = 0
    streams = True

    @property
    def has_begun(self) -> bool:
        return self.response_started

    async def send(self, message: Any) -> None:
        self.sent += 1
        if self.more_body and not self.response_started:
            self.keep_alive = False
        await super().send(message)

    def on_body(self, part: Body) -> None:
        self.body += part
        if len(self.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def on_body_end(self) -> None:
        self.more_body = False
        self.message_event.set()

    def refuse(self, error: ServingError) -> bool:
        return False

    def give_up(self) -> None:
        """Do nothing: the server cancels the tasks of its application."""

    def disconnect(self) -> None:
        self.disconnected = True
        self.message_event.set()


def turn_of(protocol: HttpToolsProtocol, sending: Sending, head: Head, on_end: Callable[[], None]) -> AsgiTurn:
    """Return the turn for a request's head; ``on_end`` is called after the response. Raises BadRequest where the target
    is no URL.
    """
    target = read_target(head.url)
    scope: Any = {
        "type": "http",
        "asgi": {"version": protocol.asgi_version, "spec_version": "2.3"},
        "http_version": head.version,
        "server": protocol.server,
        "client": protocol.client,
        "scheme": protocol.scheme,
        "root_path": protocol.root_path,
        "headers": head.headers,
        "state": protocol.app_state.copy(),
        "method": head.method.decode("ascii"),
        "path": protocol.root_path + target.path,
        "raw_path": protocol.root_path.encode("ascii") + target.raw_path,
        "query_string": target.query,
    }
    turn = AsgiTurn(
        scope=scope,
        transport=sending,  # type: ignore[arg-type]  # all of a transport that it asks for
        flow=protocol.flow,
        logger=protocol.logger,
        access_logger=protocol.access_logger,
        access_log=protocol.access_log,
        default_headers=protocol.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=head.expects,
        keep_alive=head.keep_alive,
        on_response=on_end,
    )
    scope["extensions"] = extensions(turn, protocol.transport, protocol.loop)
    return turn


def extensions(turn: AsgiTurn, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    def cut(code: str) -> None:
        """Close the connection once everything is sent. An empty ``code`` means that the response ended properly."""
        transport.close()
        if code:
            loop.call_later(CUT_TIME, transport.abort)

    def until_close() -> None:
        turn.chunked_encoding = False
        turn.expected_content_length = sys.maxsize

    return {CUT: cut, TRANSPORT: transport, UNTIL_CLOSE: until_close}
