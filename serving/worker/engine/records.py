"""Records: bodies of many records, CSV or JSON Lines, and their answers where some records are bad.

A batch transform job loses a whole file to one error, so where wanted the good records are answered and a placeholder
replaces each bad one. Other faults are not hidden by it: a fault that is no record's fails the body.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from serving import claims, codecs
from serving.codecs.measuring import numbers_cost, records_cost
from serving.errors import BadRequest, DeadlineExceeded, HandlerError, ServingError
from serving.handler import EACH, ONE, Handler
from serving.http.media import CSV, JSON, JSON_LINES, TEXT
from serving.request import USUAL, Request, Response, media_type

LINES = (CSV, *JSON_LINES, *TEXT)
OTHERS = frozenset({401, 403, 404, 405, 406, 407, 408, 411, 415, 417, 426, 429, 431})  # never a record's fault

Respond = Callable[[Request], Response]
HasHeader = Callable[[list[str]], bool]


@dataclass(slots=True)
class RecordOutcome:
    """The outcome of one record: its line and the media type of that, or its error."""

    line: bytes = b""
    kind: str = ""
    error: ServingError | None = None


def takes(handler: Handler) -> str:
    """Return which records of a body the handler takes: one only, where its answers are streams."""
    functions = (handler.predict, handler.encode)
    in_chunks = any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in functions)
    return ONE if in_chunks and handler.records == EACH else handler.records


def has_records(content_type: str) -> bool:
    """Return whether a body of this type can hold many records."""
    return _has_records(content_type) if len(content_type) <= USUAL else _has_records.__wrapped__(content_type)


@lru_cache(1024)
def _has_records(content_type: str) -> bool:
    kind = media_type(content_type)
    return kind == CSV or kind in JSON_LINES


def is_theirs(error: ServingError) -> bool:
    """Return whether an error says that a record is bad: a client error, or a failure of the model."""
    if 400 <= error.status < 500:
        return error.status not in OTHERS
    return error.status == HandlerError.status and error.code == HandlerError.code


def split(request: Request, has_header: HasHeader = lambda fields: False) -> tuple[str, list[bytes]]:
    """Return what precedes the records, a CSV header with its line end, and each record, in UTF-8.

    There are none for other types. ``has_header`` judges the first row where the type does not say. Raises what that
    raises, BadRequest and UnsupportedMediaType for bytes that are no text, BodyTooLarge and BodiesFull.
    """
    claims.take(records_cost(request.body))
    if request.media_type in JSON_LINES:
        return "", lines_in(codecs.utf8(request.body, request.content_type), JSON_LINES[0])
    if request.media_type != CSV:
        return "", []
    cost = numbers_cost(request.body)  # the memory of reading row by row
    claims.take(cost)
    text = codecs.decode_text(request.body, request.content_type)
    try:
        rows = [written or '""' for _, written, _ in codecs.split_rows(text)]
    except codecs.RowsUnclear:
        raise
    except BadRequest:  # one record is bad, as decoding will show; a line break within quotes then splits
        rows = [line for line in text.splitlines() if line.strip()]
    claims.give(cost)
    header = codecs.header_of(request.content_type)
    skip = 1 if rows and (header == "present" or (not header and has_header(fields_of(rows[0])))) else 0
    return "".join(f"{row}\n" for row in rows[:skip]), [row.encode() for row in rows[skip:]]


def fields_of(row: str) -> list[str]:
    """Return the fields of one CSV row; none where the row cannot be read alone."""
    try:
        return next((fields for _, _, fields in codecs.split_rows(row)), [])
    except BadRequest:
        return []


def requests_of(request: Request, header: bytes, records: list[bytes], first: int = 1) -> Iterator[Request]:
    """Yield a request for each record: a line of CSV below the header, or JSON.

    ``first`` is the number of the first, from 1.
    """
    kind = type_of(request) if request.media_type == CSV else JSON
    for number, record in enumerate(records, first):
        yield replace(request, body=header + record, content_type=kind, record=number)


def type_of(request: Request) -> str:
    """Return the content type of what ``split`` returns: without a charset."""
    header = codecs.header_of(request.content_type) if request.media_type == CSV else ""
    return f"{request.media_type}; header={header}" if header else request.media_type


class Records:
    """The salvage of good records. ``respond`` returns the response to a request or raises a ServingError.

    ``placeholder`` replaces bad records.
    """

    def __init__(self, placeholder: str, respond: Respond, handler: Handler) -> None:
        self._placeholder = placeholder
        self._respond = respond
        self._has_header = handler.has_header

    def salvage(self, request: Request, error: ServingError) -> Response | ServingError:
        """Return the answer to a request that failed with ``error``: its good records, and placeholders.

        Returns ``error`` where no record is good and the fault is not theirs.
        """
        if request.content_encoding or not is_theirs(error) or request.deadline.expired():
            return error
        first: list[Response] = []
        try:
            header, records = split(request, self._has_header)
            if not records:
                return error
            plain = replace(request, content_type=type_of(request))
            outcomes = self._outcomes(plain, header.encode(), records, first)
        except ServingError as exc:
            return exc
        if all(one.error is not None and one.error.status >= 500 for one in outcomes):
            return error
        kind = first[0].content_type if first else request.media_type
        body = joined(outcomes, kind, text_of_placeholder(self._placeholder, kind))
        return replace(first[0], body=body) if first else Response(body, kind)

    def _outcomes(
        self, request: Request, header: bytes, records: list[bytes], first: list[Response]
    ) -> list[RecordOutcome]:
        if request.deadline.expired():
            raise DeadlineExceeded("the deadline passed while records were answered one by one")
        try:
            response = self._respond(replace(request, body=header + b"\n".join(records) + b"\n"))
            lines = lines_of(response)
            if len(lines) != len(records):
                raise HandlerError(f"the handler gave {len(lines)} lines for {len(records)} records")
        except ServingError as error:
            if not is_theirs(error):
                raise
            if len(records) == 1:
                return [RecordOutcome(error=error)]
            middle = len(records) // 2
            left = self._outcomes(request, header, records[:middle], first)
            return left + self._outcomes(request, header, records[middle:], first)
        first.append(response)
        return [RecordOutcome(line) for line in lines]


def lines_of(response: Response) -> list[bytes]:
    """Return the records of an answer: lines, or elements of a JSON list. Raises HandlerError where it has none."""
    kind = media_type(response.content_type)
    if kind in LINES:
        return lines_in(bytes(response.body), kind)
    if kind == JSON:
        try:
            return [bytes(one) for one in msgspec.json.decode(response.body, type=list[msgspec.Raw])]
        except msgspec.DecodeError:
            pass
    raise HandlerError(f"an answer of type {kind} has no records")


def lines_in(body: bytes, content_type: str) -> list[bytes]:
    """Return the lines that are not blank. Those of JSON, in which a CR is white space, end with LF or CR LF."""
    if content_type not in JSON_LINES:
        return [line for line in body.splitlines() if line.strip()]
    lines = body.split(b"\n")
    return [line.removesuffix(b"\r") for line in lines if line.strip()]


def joined(outcomes: list[RecordOutcome], content_type: str, placeholder: bytes) -> bytes:
    """Return the lines of all records in order."""
    lines = [placeholder if one.error is not None else one.line for one in outcomes]
    if media_type(content_type) == JSON:
        return b"[" + b",".join(lines) + b"]"
    return b"".join(line + b"\n" for line in lines)


def text_of_placeholder(placeholder: str, content_type: str) -> bytes:
    """Return the placeholder as it is written in an answer of this type; in JSON, a string if it is not JSON itself."""
    text, kind = placeholder.encode(), media_type(content_type)
    if kind != JSON and kind not in JSON_LINES:
        return text
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return msgspec.json.encode(placeholder)
    return text
