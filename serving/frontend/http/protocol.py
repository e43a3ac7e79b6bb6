"""HttpProtocol: uvicorn's HTTP protocol with bounds on every wait for a client.

A connection reads a head, its body, the next head. Which of them comes next follows from the bytes read alone, never
from the responses. A head is not parsed before the previous response is complete: data that comes too early is kept,
and reading stops.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.errors import BadRequest, ServingError
from serving.frontend.answers import CUT, IS_THERE, TRANSPORT, UNTIL_CLOSE
from serving.frontend.http.absence import Absence, Lookout, Silence, has_left, see
from serving.frontend.http.chunked import Chunked
from serving.frontend.http.cycle import Cycle, cycle_of_head
from serving.frontend.http.flow import Flow
from serving.frontend.http.head import Head
from serving.frontend.http.lingering import Lingering
from serving.frontend.http.reader import ReaderWatch
from serving.frontend.http.refusal import refusal
from serving.frontend.http.sending import Sending

HEAD_TIME = 30.0  # seconds from a head's first byte to its last
IDLE_TIME = 90.0  # seconds from a connection's beginning to its first byte
READ_TIME = 60.0  # seconds in which a client that is sent an answer must read some of it
CUT_TIME = 5.0  # seconds for the last bytes to be sent before a connection is cut
BLANK = b"\r\n"  # bytes that may come before a head


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection. ``_head`` is the head being read. ``_left`` bytes of the body are yet to come, or it is
    chunked and read by ``_chunks``. ``_is_open`` until nothing more is read or written here.
    """

    flow: Flow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = None  # type: ignore[assignment]  # each head has its own
        self._lookout = Lookout(transport, self.loop, lambda: self._is_open and self.flow.read_paused, self._on_doubt)
        self.flow = Flow(transport, self._lookout.start)
        self.sending = Sending(transport, self.end)
        self._head: Head | None = None
        self._left = 0
        self._chunks: Chunked | None = None
        self._unread = b""
        self._unread_at = 0
        self._has_eof = False
        self._is_open = True
        self._absence: Absence | Silence | None = None
        self._reader = ReaderWatch(transport, self.loop, READ_TIME)
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(IDLE_TIME, transport.close)
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._reader.stop()
        if self._head is not None:
            self._head.drop()
        self._head = self._chunks = None
        self._unread = b""
        self._is_open = False
        self.sending.end()
        super().connection_lost(exc)

    # Reading.

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data, self._unread = self._unread[self._unread_at :] + data, b""
        self._read(data, 0)

    def _read(self, data: bytes, at: int) -> None:
        size = len(data)
        try:
            while at < size and self._is_open:
                if self._left:
                    at = self._read_body(data, at)
                elif self._chunks is not None:
                    at = self._read_chunks(self._chunks, data, at)
                elif self._is_busy:
                    self._unread, self._unread_at = data, at
                    self.flow.hold()
                    return
                else:
                    at = self._read_head(data, at)
        except ServingError as error:
            self._refuse(error)

    @property
    def _is_busy(self) -> bool:
        """Whether a response is under way, or much of one has yet to be read by the client."""
        cycle = self.cycle
        return (cycle is not None and not cycle.response_complete) or self.flow.write_paused

    @property
    def _is_within(self) -> bool:
        """Whether part of a request has arrived, but not all of it."""
        return self._head is not None or self._left > 0 or self._chunks is not None

    def _read_head(self, data: bytes, at: int) -> int:
        head = self._head
        if head is None:
            while data[at] in BLANK:
                at += 1
                if at == len(data):
                    return at
            head = self._head = Head()
            self._stop_timer()
        at = head.read(data, at)
        if not head.is_complete:
            if self._timer is None:
                self._timer = self.loop.call_later(HEAD_TIME, self.transport.close)
            return at
        self._stop_timer()
        head.check()
        if head.upgrade and head.is_websocket and self._should_upgrade_to_ws():
            self._upgrade(head, data[at:])
            return len(data)
        self._head = None
        self._left = head.length
        if head.is_chunked:
            self._chunks = Chunked()
        self._start(head)
        if not (head.length or head.is_chunked):
            self.on_message_complete()
        return at

    def _read_body(self, data: bytes, at: int) -> int:
        part = data[at : at + self._left]
        self._left -= len(part)
        self.on_body(part)
        if not self._left:
            self.on_message_complete()
        return at + len(part)

    def _read_chunks(self, chunks: Chunked, data: bytes, at: int) -> int:
        at = chunks.read(data, at, self.on_body)
        if chunks.is_done:
            self._chunks = None
            self.on_message_complete()
        return at

    def _start(self, head: Head) -> None:
        """Begin to answer. Raises BadRequest."""
        self.cycle = cycle_of_head(self, head)
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _upgrade(self, head: Head, rest: bytes) -> None:
        """Pass the connection to the WebSocket protocol, with the data that came after the head."""
        self._stop_timers()
        self._reader.stop()
        self._is_open = False
        self.sending.end()
        self.connections.discard(self)
        protocol: Any = self.ws_protocol_class(  # type: ignore[call-arg, misc]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        lines = [head.method, b" ", head.url, b" HTTP/1.1\r\n", *(b"%b: %b\r\n" % one for one in head.headers), b"\r\n"]
        protocol.connection_made(self.transport)
        protocol.data_received(b"".join(lines))
        self.transport.set_protocol(protocol)
        if rest:
            protocol.data_received(rest)

    # The client's end of file.

    def eof_received(self) -> bool:  # type: ignore[override]
        """Handle the client's end of file: it sends no more, but may still read."""
        self._has_eof = True
        self._stop_timer()
        if not self._unread:
            self._at_end()
        return not self.transport.is_closing()

    def _at_end(self) -> None:
        cycle = self.cycle
        has_begun = cycle is not None and not cycle.response_complete and cycle.response_started
        if not self._is_busy and not self._is_within:
            self.end()
        elif self._is_within and not has_begun:
            self._refuse(BadRequest("the request ended before it was whole"))
        else:
            self._see_whether_it_left()

    def _on_doubt(self, sends_no_more: bool) -> None:
        """Check whether the client has left, while nothing is read."""
        if not self._is_within:  # reading on with the rest of a request tells more
            self._see_whether_it_left(sends_no_more)

    def _see_whether_it_left(self, sends_no_more: bool = True) -> None:
        """Watch a client that may have left, or may only wait for the response that is under way."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        if not cycle.response_started:
            self._begin_answer()
        elif sends_no_more and isinstance(cycle, Cycle) and not isinstance(self._absence, Silence):
            # Any other response is written already, and READ_TIME bounds a client that does not read.
            self._stop_absence()
            self._absence = Silence(self.transport, self.loop, lambda: cycle.sent)

    def _begin_answer(self) -> None:
        if self._absence is None:
            self.sending.begin()
            self._absence = Absence(self.transport, self.loop)

    async def _is_there(self) -> bool:
        """Return whether the client is still there to be sent a new session."""
        if self._is_open and (self._has_eof or see(self.transport).is_doubtful):
            self._begin_answer()
            return not await has_left(self.transport)
        return True

    def _refuse(self, error: ServingError) -> None:
        """Answer what is no request, and close the connection."""
        cycle = self.cycle
        has_begun = False
        if cycle is not None and not cycle.response_complete:
            has_begun = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if not has_begun:
            headers = self._head.headers if self._head is not None else []
            self.sending.write(refusal(error, headers, self.server_state.default_headers))
        self.end(lingers=True)

    def end(self, lingers: bool = False) -> None:
        """Close the connection after what was written. It ``lingers`` also where more of a request is to come."""
        self._stop_timers()
        self._is_open = False
        self.sending.end()
        more = lingers or self._is_within or self._unread
        if more and not self._has_eof and not self.transport.is_closing():
            Lingering(self, self.transport, self.loop)
        else:
            self.transport.close()

    # After a response, and writing.

    def on_response_complete(self) -> None:
        self.flow.resume_reading()
        self._go_on()

    def _go_on(self) -> None:
        """Go on after a complete response. One timer covers all idle times between requests."""
        self.server_state.total_requests += 1
        if not self._is_open:
            return
        if self._unread or self._has_eof:
            self.loop.call_soon(self._read_on)
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look)

    def _read_on(self) -> None:
        """Parse the data that came too early."""
        if self.cycle is None or self.cycle.response_complete:
            self._stop_absence()
        if self._is_busy or not self._is_open:
            return
        data, self._unread = self._unread, b""
        self.flow.release()
        self._read(data, self._unread_at)
        if self._has_eof and not self._unread and self._is_open:
            self._at_end()

    def _look(self) -> None:
        """Close a connection that has been idle for long. Does nothing while a request is under way."""
        self._idle_timer = None
        if self._head is not None or (self.cycle is not None and not self.cycle.response_complete):
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.timeout_keep_alive_handler()
        else:
            self._idle_timer = self.loop.call_later(left, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_timers(self) -> None:
        self._stop_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._lookout.stop()
        self._stop_absence()

    def _stop_absence(self) -> None:
        if self._absence is not None:
            self._absence.stop()
            self._absence = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.stop()
        if self._unread or self._has_eof:
            self.loop.call_soon(self._read_on)

    # Extensions for the ASGI application.

    def extensions(self, cycle: RequestResponseCycle) -> dict[str, Any]:
        return {
            CUT: self._cut,
            TRANSPORT: self.transport,
            IS_THERE: self._is_there,
            UNTIL_CLOSE: self._end_with_connection(cycle),
        }

    def _cut(self, code: str) -> None:
        """Close the connection once everything is sent. An empty ``code`` means that the response ended properly."""
        self.transport.close()
        if code:
            self.loop.call_later(CUT_TIME, self.transport.abort)

    @staticmethod
    def _end_with_connection(cycle: RequestResponseCycle) -> Callable[[], None]:
        def until_close() -> None:
            cycle.chunked_encoding = False
            cycle.expected_content_length = sys.maxsize

        return until_close
