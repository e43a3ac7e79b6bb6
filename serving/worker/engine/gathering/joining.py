"""Joining: one response made of the outcomes of many records."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from serving import codecs
from serving.errors import CodedError, HandlerError, NotAcceptable
from serving.http.accept import negotiate
from serving.http.media import CSV, JSON, JSON_LINES, NPY, TEXT, is_json
from serving.request import Request, Response, media_type
from serving.worker.engine.records import RecordOutcome, joined, lines_in, text_of_placeholder

OFFERED = (JSON, *JSON_LINES, CSV, TEXT[0], NPY)
ANY = ("", "*/*")
LINED = (CSV, *TEXT, *JSON_LINES)


class Join:
    """One joined response. ``asked`` is the Accept of each record's request.

    Raises NotAcceptable for a type that many answers cannot have. A client without a preference gets what the handler
    returns by itself: a JSON list, or lines of text or CSV; JSON Lines where the records' answers differ in that.
    """

    def __init__(self, request: Request, default: str) -> None:
        self._request = request
        self._first: Response | None = None
        accept = request.accept
        usual = default if default in OFFERED else JSON
        self._free = accept in ANY and usual == JSON
        self._kind = "" if self._free else negotiate(accept, OFFERED, usual)
        self.asked = JSON if self._kind in JSON_LINES else self._kind

    def fill(self, outcome: RecordOutcome, response: Response) -> None:
        """Fill in the outcome of one record.

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
            if not self._free or NPY in (kind, self._kind):
                raise HandlerError(f"an answer of type {kind} cannot be one of many of type {self._kind}")
            self._kind = JSON_LINES[0]
        outcome.line, outcome.kind = self._line(kind, bytes(response.body)), kind

    def _line(self, kind: str, body: bytes) -> bytes:
        """Return the line of an answer; the whole text of one that may yet become JSON."""
        if is_json(kind):
            return compact(body)
        if kind == NPY:
            return body
        if kind not in LINED:
            raise HandlerError(f"answers of type {kind} cannot be joined: give JSON, CSV or text")
        lines = (
            [line.encode() for _, line, _ in codecs.split_rows(body.decode())] if kind == CSV else lines_in(body, kind)
        )
        if self._free and kind in TEXT:
            self._kind = self._kind if len(lines) == 1 else JSON_LINES[0]
            return body
        if len(lines) != 1:
            raise HandlerError(f"the handler gave {len(lines)} lines for one record")
        return lines[0]

    def response(self, outcomes: list[RecordOutcome], placeholder: str) -> Response:
        """Return the joined response. Raises NotAcceptable where npy cannot hold it."""
        kind = self._kind or self._request.media_type
        first = self._first or Response(b"", kind)
        if self._free:
            finish(outcomes, kind in JSON_LINES)
        if kind == NPY:
            return replace(first, body=stacked(outcomes), content_type=kind)
        content_type = first.content_type if media_type(first.content_type) == kind else kind
        return replace(
            first, body=joined(outcomes, kind, text_of_placeholder(placeholder, kind)), content_type=content_type
        )


def finish(outcomes: list[RecordOutcome], as_json: bool) -> None:
    """Make JSON of the texts, or one line of each. Raises HandlerError for one that is not UTF-8."""
    for one in outcomes:
        if as_json and one.kind in (CSV, *TEXT):
            try:
                one.line = msgspec.json.encode(one.line.decode())
            except UnicodeDecodeError as exc:
                raise HandlerError(f"an answer of type {one.kind} is no UTF-8 among others of JSON") from exc
        elif one.kind in TEXT:
            [one.line] = lines_in(one.line, one.kind)


def compact(body: bytes) -> bytes:
    """Return JSON on one line. Raises HandlerError for invalid JSON."""
    if b"\n" not in body and b"\r" not in body:
        return body
    try:
        return msgspec.json.format(body, indent=-1)
    except msgspec.DecodeError as exc:
        raise HandlerError(f"the handler's answer is no JSON: {exc}") from exc


def stacked(outcomes: list[RecordOutcome]) -> bytes:
    import numpy as np

    if any(one.error is not None for one in outcomes):
        raise NotAcceptable("some records are bad, for which nothing can stand in an npy array")
    try:
        return codecs.to_npy(np.stack([codecs.decode_npy(one.line) for one in outcomes]))
    except ValueError as exc:
        raise NotAcceptable("the answers differ in shape, so that they are no one npy array") from exc
