"""HttpProtocol: uvicorn's HTTP protocol with bounds on what a client may leave us waiting for.

Uvicorn itself bounds neither the size of a request's head, nor the time for it, nor that for reading an answer.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.frontend.answers import CUT, TRANSPORT, UNTIL_CLOSE
from serving.frontend.reader import ReaderWatch

MAX_HEAD = 64 * 1024  # bytes of request line and headers
HEAD_TIME = 30.0  # seconds from a head's first byte to its last
IDLE_TIME = 90.0  # seconds from a connection's beginning to its first byte
READ_TIME = 60.0  # seconds in which a client that is sent an answer must read some of it
CUT_TIME = 5.0  # seconds for what was sent to leave before a connection is cut
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
# What we do not switch to is to be ignored (RFC 9110 §7.8); the parser would take the body for the other protocol's.
FOREIGN_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:[ \t]*+(?!websocket))", re.IGNORECASE)


class HttpProtocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_size = 0
        self._in_head = False
        self._is_deaf = False
        self._reader = ReaderWatch(transport, self.loop, READ_TIME)
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(IDLE_TIME, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._reader.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        before = self._head_size if self._in_head else 0
        if self._in_head or self.cycle is None or self.cycle.response_complete:
            data = without_upgrade(data)
        super().data_received(data)
        self._head_size = before + len(data)
        if self._in_head and not self.transport.is_closing():
            if self._head_size > MAX_HEAD:
                self.transport.write(TOO_LARGE)
                self.transport.close()
            elif self._timer is None:
                self._timer = self.loop.call_later(HEAD_TIME, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def _begin_head(self) -> None:
        self._in_head = True
        self._stop_timer()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()
        if self.cycle is not None:  # none for a WebSocket
            self.scope["extensions"] = self.extensions(self.cycle)

    def handle_websocket_upgrade(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            super().handle_websocket_upgrade()
            return
        # The answer to what was asked before comes first. It ends the connection, and the client may ask anew.
        cycle.keep_alive = False
        self._is_deaf = True

    def _end_head(self) -> None:
        self._in_head = False
        self._stop_timer()

    def extensions(self, cycle: RequestResponseCycle) -> dict[str, Any]:
        """What the ASGI application may do to the connection beyond answering."""
        return {CUT: self._cut, TRANSPORT: self.transport, UNTIL_CLOSE: self._end_with_connection(cycle)}

    def _cut(self, code: str) -> None:
        """Close the connection once what was sent has left; without a ``code`` that was the proper end."""
        self.transport.close()
        if code:
            self.loop.call_later(CUT_TIME, self.transport.abort)

    @staticmethod
    def _end_with_connection(cycle: RequestResponseCycle) -> Callable[[], None]:
        def until_close() -> None:
            cycle.chunked_encoding = False
            cycle.expected_content_length = sys.maxsize

        return until_close

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.stop()


def without_upgrade(data: bytes) -> bytes:
    """What begins in a request's head, without an Upgrade there that we would not follow; a body is left alone."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[: end + 4]
    if b"pgrade" not in head and b"PGRADE" not in head:
        return data
    return FOREIGN_UPGRADE.sub(b"\r\nx-upgrade", head) + data[len(head) :]
