"""Responses: what an HTTP worker sends, whole or streamed, and the form of a failure in each.

When a streamed response fails, its status and headers have already been sent. The client gets the error as a last
record where the content type has records, and then the connection is closed without the last chunk, so that nobody
takes the response for a complete one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from starlette.types import Receive, Scope, Send

from serving.config.config import Config
from serving.conversation import Close, Message
from serving.deadline import EARLY
from serving.errors import DeadlineExceeded
from serving.frontend.bodies import BodyReservation
from serving.frontend.error_responses import CAUGHT, Api, Failure, json_body, report
from serving.frontend.http.headers import Headers, custom_attributes, header_value, request_id_header, session_headers
from serving.frontend.receiving import watch
from serving.frontend.routing.stream import Stream, Streamed
from serving.http.media import JSON_LINES
from serving.ipc.scoreboard import Scoreboard
from serving.request import BODILESS, Body, Request, Response, media_type

JSON = "application/json"
EVENTS = "text/event-stream"
LARGE = 1 << 16  # bytes; what uvicorn buffers of a reply before it waits
# Extensions of the ASGI scope.
CUT = "serving.cut"  # close the connection once everything is sent; takes an error's code, "" for none
TRANSPORT = "serving.transport"  # the connection's transport, where there is one
HAS_DISCONNECTED = "serving.has_left"  # a function: has the WebSocket's client disconnected?
UNTIL_CLOSE = "serving.until_close"  # end the body with the connection, as for HTTP/1.0
STOPPED = "the server stopped before the answer was there"
CUT_TIME = 7.0  # seconds to wait for a cut connection to close
RECORD_TIME = 1.0  # seconds for the last record before a cut
INVOCATION = Api(STOPPED, "an invocation failed")
STREAM = Api("the server stopped before the answer was complete", "an answer in pieces failed")


class EncodedResponse(NamedTuple):
    """A complete response."""

    status: int
    headers: Headers
    body: Body


class Responses:
    """Sends the responses of one HTTP worker, whole or streamed."""

    def __init__(self, config: Config, board: Scoreboard) -> None:
        self._echo = config.echo_attributes
        self._idle = config.stream_idle_timeout
        self._board = board

    async def send(self, send: Send, response: Response, request: Request) -> None:
        await self._send(send, self.encode(response, request.custom_attributes, request.request_id))

    @staticmethod
    def hold(scope: Scope, body: Body, reservation: BodyReservation) -> None:
        """Count a response of ``body``, in place of its request's body, until the client has read it. Raises
        BodiesFull.
        """
        transport = scope.get("extensions", {}).get(TRANSPORT)
        if transport is None:
            reservation.count_response(len(body), None, None)
        else:
            waiting = transport.get_write_buffer_size
            reservation.count_response(len(body) + waiting(), waiting, transport.abort)

    def encode(self, response: Response, attributes: str | None, request_id: str) -> EncodedResponse:
        """Return the response to send for a handler's. ``attributes`` are the request's custom attributes."""
        extra = self._headers(response, attributes, request_id)
        return self.with_body(response.status, response.content_type, response.body, extra)

    @staticmethod
    def report(error: Exception, api: Api, request_id: str) -> Failure:
        """Log ``error`` and return what the client is told of it."""
        failure = report(error, api, request_id)
        assert failure is not None
        return failure

    def failure(self, failure: Failure, request_id: str) -> EncodedResponse:
        """Return the response for a request that failed."""
        if failure.status == 405 and not failure.allow:  # user code's own
            failure = failure._replace(allow="POST")
        headers = [request_id_header(request_id), *failure.headers]
        return self.with_body(failure.status, JSON, json_body(failure, request_id), headers)

    def with_body(self, status: int, content_type: str, body: Body, extra: Headers) -> EncodedResponse:
        headers = [(b"content-type", header_value(content_type))]
        if status in BODILESS:
            body = b""  # a body would be read as the beginning of the next response
        else:
            headers.append((b"content-length", str(len(body)).encode()))
        headers += extra
        if self._board.is_draining:
            headers.append((b"connection", b"close"))
        return EncodedResponse(status, headers, body)

    def _headers(self, response: Response, attributes: str | None, request_id: str) -> Headers:
        if self._echo and response.custom_attributes is None:
            response = msgspec.structs.replace(response, custom_attributes=attributes)
        found = custom_attributes(response, request_id) + session_headers(response)
        found.append(request_id_header(request_id))
        return found

    async def send_error(self, send: Send, exc: BaseException, request_id: str) -> None:
        """Send the response for a request that failed with ``exc``, unless its client has left, and log the error."""
        failure = report(exc, INVOCATION, request_id)
        if failure is not None:
            await self._send(send, self.failure(failure, request_id))

    async def send_body(
        self, send: Send, status: int, content_type: str, body: Body, extra: Headers | None = None
    ) -> None:
        await self._send(send, self.with_body(status, content_type, body, extra or []))

    async def _send(self, send: Send, response: EncodedResponse) -> None:
        body = response.body
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        if len(body) >= LARGE:
            # The next send waits until most of this one is sent, so that the request counts as in flight until then.
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
        await send({"type": "http.response.body", "body": body})

    # Streamed responses.

    async def stream(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        streamed: Streamed,
        request: Request,
        until: float,
        reservation: BodyReservation,
    ) -> None:
        """Send a streamed response, which must be complete at the instant ``until``. On every exit the stream to the
        replica is cancelled. ``reservation`` counts the memory of the request's body.
        """
        response = streamed.response
        failure: Failure | None = None

        async def write(chunk: Body) -> None:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        try:
            await self._start_stream(scope, send, response, request)
            hold = lambda chunk: self.hold(scope, chunk, reservation)  # noqa: E731
            await watch(self.pass_on(streamed, write, hold, until), receive)
            if scope["http_version"] != "1.0":
                await send({"type": "http.response.body", "body": b""})
                return
        except CAUGHT as exc:
            failure = report(exc, STREAM, request.request_id)
            if failure is None:
                return
        finally:
            streamed.stream.cancel()
        if failure is not None:
            record = record_of(failure, response.content_type, request.request_id, streamed.tail)
            with contextlib.suppress(DeadlineExceeded):
                await send_chunk(write, record, time.monotonic() + RECORD_TIME)
        scope["extensions"][CUT](failure.code if failure is not None else "")
        # Returning before the connection is closed would make uvicorn report an incomplete response.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_TIME if failure is not None else max(CUT_TIME, until - time.monotonic())):
                while (await receive())["type"] != "http.disconnect":
                    pass

    async def _start_stream(self, scope: Scope, send: Send, response: Response, request: Request) -> None:
        headers = self.stream_headers(response, request.custom_attributes, request.request_id)
        if scope["http_version"] == "1.0":
            scope["extensions"][UNTIL_CLOSE]()
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})

    def stream_headers(self, response: Response, attributes: str | None, request_id: str) -> Headers:
        """Return the headers of a streamed response. ``attributes`` are the request's custom attributes."""
        headers = [(b"content-type", header_value(response.content_type)), (b"cache-control", b"no-cache")]
        headers += self._headers(response, attributes, request_id)
        if self._board.is_draining:
            headers.append((b"connection", b"close"))
        return headers

    async def pass_on(
        self,
        streamed: Streamed,
        write: Callable[[Body], Awaitable[None]],
        hold: Callable[[Body], None],
        until: float,
    ) -> None:
        """Write every chunk of a streamed response. Raises the ServingError that ends it early, DeadlineExceeded at the
        instant ``until`` at the latest. ``hold`` counts a chunk as held until the client has read it.
        """

        async def send(chunk: Body) -> None:
            hold(chunk)
            streamed.passed(chunk)
            await send_chunk(write, chunk, until)

        await send(streamed.response.body)
        while not isinstance(message := await self._next(streamed.stream, until), Close):
            await send(message.body)
            streamed.stream.use(message)

    async def _next(self, stream: Stream, until: float) -> Message | Close:
        try:
            async with asyncio.timeout(min(self._idle, until - time.monotonic())):
                return await stream.next()
        except TimeoutError:
            late = time.monotonic() >= until - EARLY
            why = "the answer took too long" if late else f"the answer stood still for {self._idle:g} s"
            raise DeadlineExceeded(why) from None


async def send_chunk(write: Callable[[Body], Awaitable[None]], chunk: Body, until: float) -> None:
    """Send one chunk; waits while the client reads slowly. Raises DeadlineExceeded at the instant ``until``."""
    if not chunk:
        return
    try:
        async with asyncio.timeout(until - time.monotonic()):
            await write(chunk)
    except TimeoutError:
        raise DeadlineExceeded("the client did not read the answer in time") from None


def record_of(failure: Failure, content_type: str, request_id: str, tail: bytes) -> bytes:
    """Return the failure as one more record of the response, starting on its own line after ``tail``, the last bytes
    sent. Returns b"" where the content type has no records.
    """
    body = json_body(failure, request_id)
    kind = media_type(content_type)
    if kind == EVENTS:
        return ending(tail) + b"event: error\ndata: " + body + b"\n\n"
    if kind not in JSON_LINES:
        return b""
    return (b"" if tail.endswith(b"\n") or not tail else b"\n") + body + b"\n"


def ending(tail: bytes) -> bytes:
    """Return the line ends that complete an event whose last bytes are ``tail``; lines may end with CR, LF or CR LF."""
    lines = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not lines or lines.endswith(b"\n\n"):
        return b""
    return b"\n" if lines.endswith(b"\n") else b"\n\n"
