"""Error responses: what a client is told when its request fails, and what the log says.

``failure_of`` is the one place where an exception becomes a status, a code and a message. Each API gives these to its
clients in the form of its own protocol: a JSON body, a last record of a stream, a close code.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, overload

import msgspec

from serving.errors import Draining, MethodNotAllowed, ServingError, Unavailable
from serving.frontend.http.headers import Headers
from serving.frontend.receiving import ClientGone
from serving.system import log

CAUGHT = (Exception, asyncio.CancelledError)  # what an API catches, to pass it to ``report``
INTERNAL = "internal error"  # all that a client is told of an error that nobody expected
MESSAGE_LIMIT = 700  # characters; with code, id and JSON escapes an error body stays below 1 KB
BODY_LIMIT = 1024  # bytes


class Api(NamedTuple):
    """The words of one API for a request that fails: to the client when the server stops first (``stopped``), and in
    the log when an error was sent (``error_sent``), when nobody expected that error (``fault``), and when the client
    has ``disconnected``, which the exception ``disconnect`` says. Empty lines are not logged.
    """

    stopped: str = ""
    fault: str = ""
    error_sent: str = "a request was answered with an error"
    disconnected: str = "the client went away"
    disconnect: type[Exception] = ClientGone


class Failure(NamedTuple):
    """The response to a request that failed. ``retry_after`` is in seconds, 0 where trying again is of no use.
    ``is_fault``: nobody expected the error, and the log gets its traceback. ``allow`` names the methods of a path that
    does not take the request's. ``report`` is the id of the report of a worker's end.
    """

    status: int
    code: str
    message: str
    retry_after: int = 0
    is_fault: bool = False
    allow: str = ""
    report: str = ""

    @classmethod
    def of(cls, error: ServingError) -> Failure:
        waits = error.status == Unavailable.status
        retry_after = int(getattr(error, "retry_after", Unavailable.retry_after)) if waits else 0
        allow = error.allow if isinstance(error, MethodNotAllowed) else ""
        return cls(error.status, error.code, error.message, retry_after, allow=allow, report=error.report)

    @property
    def level(self) -> int:
        """The level of its line in the log. Overload is the clients' doing, and there may be much of it."""
        return logging.WARNING if self.status >= 500 and self.status != Unavailable.status else logging.DEBUG

    @property
    def headers(self) -> Headers:
        """The headers that belong to it: when to try again, which methods are allowed (RFC 9110 §15.5.6)."""
        found = [(b"retry-after", str(self.retry_after).encode())] if self.retry_after else []
        return [*found, (b"allow", self.allow.encode())] if self.allow else found


def failure_of(exc: BaseException, api: Api) -> Failure | None:
    """Return what the client gets for ``exc``; None where it has disconnected."""
    if isinstance(exc, ServingError):
        return Failure.of(exc)
    if isinstance(exc, asyncio.CancelledError):
        # The time for draining is over: uvicorn cancels the remaining requests, and their clients get a 503.
        return Failure.of(Draining(api.stopped))
    if isinstance(exc, api.disconnect):
        return None
    return Failure(ServingError.status, ServingError.code, INTERNAL, is_fault=True)


@overload
def report(exc: ServingError, api: Api, request_id: str) -> Failure: ...
@overload
def report(exc: BaseException, api: Api, request_id: str) -> Failure | None: ...
def report(exc: BaseException, api: Api, request_id: str) -> Failure | None:
    """Log ``exc`` and return what the client gets for it; None where it has disconnected."""
    failure = failure_of(exc, api)
    if failure is None:
        if api.disconnected:
            log.debug(api.disconnected, request_id=request_id)
        return None
    if failure.is_fault:
        log.error(api.fault, exc=exc, request_id=request_id)
    status, code, end = failure.status, failure.code, failure.report or None
    log.emit(failure.level, api.error_sent, request_id=request_id, status=status, code=code, report=end)
    return failure


def json_body(failure: Failure, request_id: str) -> bytes:
    """Return the JSON body of an error response, below 1 KB: ``{"error": {"code", "message", "request_id"}}``, with
    the ``report`` of a worker's end.
    """
    message = failure.message
    more = {"report": failure.report} if failure.report else {}
    while True:
        error = {"code": failure.code, "message": message, "request_id": request_id, **more}
        data = msgspec.json.encode({"error": error})
        if len(data) < BODY_LIMIT or not message:
            return data
        message = message[: min(MESSAGE_LIMIT, len(message) // 2)]
