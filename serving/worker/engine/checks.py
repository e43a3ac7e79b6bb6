"""Checks: whether a handler's results can be sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from serving import codecs
from serving.errors import HandlerError, SessionTooLarge
from serving.http.media import CSV, JSON, JSON_LINES, NPY, NPZ, RAW, TEXT
from serving.request import BODILESS, Request, Response, StreamingResponse
from serving.session import Session, size_of

USUAL = frozenset((JSON, *JSON_LINES, CSV, NPY, NPZ, RAW, *TEXT))
BYTES = (bytes, bytearray)
MAYBE_TEXT = (str, type(None))


def check_size(session: Session, limit: int) -> None:
    """Check the size of a session's state. Raises SessionTooLarge, which ends the session.

    What to drop of its state only the handler could know.
    """
    size = size_of(session.state, limit) if limit else 0
    if size > limit:
        session.close()
        raise SessionTooLarge(f"the state of the session has more than {limit} bytes; the session is closed")


def sound(response: Response) -> Response:
    """Return a response that can be sent. Raises HandlerError for a wrong status, type or body."""
    if (
        type(response.body) is bytes
        and type(response.status) is int
        and response.status == 200
        and response.content_type in USUAL
        and response.custom_attributes is None
    ):
        return response  # the common case
    check_head(response.status, response.content_type, response.custom_attributes)
    if type(response.body) is bytes:
        return response
    if isinstance(response.body, memoryview):
        return msgspec.structs.replace(response, body=response.body.tobytes())
    if not isinstance(response.body, BYTES):
        raise HandlerError(f"the body of a response is bytes, not {type(response.body).__name__}")
    return response


def responder(default_accept: str) -> Callable[[Any, Request], Response]:
    """Return a function that makes a Response of what ``encode`` returns. It raises what cannot be sent."""

    def respond(value: Any, request: Request) -> Response:
        if type(value) is not Response:
            value = codecs.encode(value, request.accept, default_accept)
        return sound(value)

    return respond


def sound_stream(response: StreamingResponse) -> StreamingResponse:
    """Return a stream that can be sent. Raises HandlerError for a wrong status, type or chunks."""
    check_head(response.status, response.content_type or "", response.custom_attributes)
    if response.status in BODILESS:
        raise HandlerError(f"an answer with status {response.status} has no body, and so no pieces")
    chunks: Any = response.pieces
    if hasattr(chunks, "__aiter__"):
        return replace(response, pieces=aiter(chunks))
    if hasattr(chunks, "__iter__") and not isinstance(chunks, str | bytes):
        return replace(response, pieces=iter(chunks))
    raise HandlerError(f"the pieces of an answer are an iterator, not {type(chunks).__name__}")


def check_head(status: int, content_type: str, custom_attributes: str | None) -> None:
    """Check a response's status and headers: a line break would add a header. Raises HandlerError."""
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise HandlerError(f"the handler's response has status {status!r}; allowed: 200 to 599")
    if not isinstance(content_type, str) or not isinstance(custom_attributes, MAYBE_TEXT):
        raise HandlerError("content type and custom attributes of a response are text")
    if not (content_type.isascii() and content_type.isprintable()):
        raise HandlerError(
            f"the handler's response has the content type {content_type[:100]!r}; allowed: printable ASCII on one line"
        )
