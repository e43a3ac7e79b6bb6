"""Joining: one answer made of the answers to many records."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from serving import codecs
from serving.errors import CodedError, HandlerError, NotAcceptable
from serving.http.accept import negotiate
from serving.http.media import CSV, JSON, JSON_LINES, NPY, TEXT, is_json
from serving.request import Request, Response, media_type
from serving.worker.engine.records import Outcome, joined, text_of_placeholder

OFFERED = (JSON, *JSON_LINES, CSV, TEXT[0], NPY)
ANY = ("", "*/*")
LINED = (CSV, *TEXT, *JSON_LINES)


class Join:
    """One joined answer. ``asked`` is the Accept of each record's request.

    Raises NotAcceptable for a type that many answers cannot have. A client without a preference gets what the handler
    returns by itself: a JSON list, or lines of text or CSV.
    """

    def __init__(self, request: Request, default: str) -> None:
        self._request = request
        self._first: Response | None = None
        accept = request.accept
        usual = default if default in OFFERED else JSON
        self._kind = "" if accept in ANY and usual == JSON else negotiate(accept, OFFERED, usual)
        self.asked = JSON if self._kind in JSON_LINES else self._kind

    def line(self, response: Response) -> bytes:
        """Return the line of one record.

        Raises HandlerError for an answer that does not fit, and the handler's own error.
        """
        kind = media_type(response.content_type)
        if response.status >= 400:
            text = bytes(response.body[:200]).decode("utf-8", "replace")
            raise CodedError(response.status, "handler_error", text)
        if response.status != 200:
            raise HandlerError(f"an answer with status {response.status} cannot be one of many")
        if not self._kind:
            self._kind = JSON if is_json(kind) else kind
        if self._first is None:
            self._first = response
        if kind != self._kind and not (is_json(kind) and self._kind in (JSON, *JSON_LINES)):
            raise HandlerError(f"an answer of type {kind} cannot be one of many of type {self._kind}")
        body = bytes(response.body)
        if is_json(kind):
            return compact(body)
        if kind == NPY:
            return body
        if kind not in LINED:
            raise HandlerError(f"answers of type {kind} cannot be joined: give JSON, CSV or text")
        lines = [line.encode() for _, line, _ in codecs.split_rows(body.decode())] if kind == CSV else lines_in(body)
        if len(lines) != 1:
            raise HandlerError(f"the handler gave {len(lines)} lines for one record")
        return lines[0]

    def answer(self, outcomes: list[Outcome], placeholder: str) -> Response:
        """Return the joined answer. Raises NotAcceptable where npy cannot hold it."""
        kind = self._kind or self._request.media_type
        first = self._first or Response(b"", kind)
        if kind == NPY:
            return replace(first, body=stacked(outcomes), content_type=kind)
        content_type = first.content_type if media_type(first.content_type) == kind else kind
        return replace(
            first, body=joined(outcomes, kind, text_of_placeholder(placeholder, kind)), content_type=content_type
        )


def lines_in(body: bytes) -> list[bytes]:
    return [line for line in body.splitlines() if line.strip()]


def compact(body: bytes) -> bytes:
    """Return JSON on one line. Raises HandlerError for invalid JSON."""
    if b"\n" not in body and b"\r" not in body:
        return body
    try:
        return msgspec.json.format(body, indent=-1)
    except msgspec.DecodeError as exc:
        raise HandlerError(f"the handler's answer is no JSON: {exc}") from exc


def stacked(outcomes: list[Outcome]) -> bytes:
    import numpy as np

    if any(one.error is not None for one in outcomes):
        raise NotAcceptable("some records are bad, for which nothing can stand in an npy array")
    try:
        return codecs.to_npy(np.stack([codecs.decode_npy(one.line) for one in outcomes]))
    except ValueError as exc:
        raise NotAcceptable("the answers differ in shape, so that they are no one npy array") from exc
