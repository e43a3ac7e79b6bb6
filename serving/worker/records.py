"""Records: a body of many, CSV or JSON Lines, in which some are bad.

A batch transform job loses a whole file to one error, so where that is wanted the good records are answered and a
placeholder stands in place of each bad one. That is done by halves, and only once such a request has failed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from serving.accept import parameters
from serving.codecs import CSV, JSON, JSON_LINES, TEXT
from serving.errors import DeadlineExceeded, HandlerError, ServingError
from serving.request import Request, Response

LINES = (CSV, *JSON_LINES, *TEXT)

Answer = Callable[[Request], Response]


@dataclass(slots=True)
class Outcome:
    """One record's: its line, or what was wrong with it."""

    line: bytes = b""
    error: ServingError | None = None


def records_of(request: Request) -> tuple[bytes, list[bytes]]:
    """What comes before the records, a CSV header, and each record's line; none for other types."""
    kind = request.media_type
    if kind != CSV and kind not in JSON_LINES:
        return b"", []
    lines = [line for line in bytes(request.body).splitlines() if line.strip()]
    has_header = kind == CSV and parameters(request.content_type).get("header") == "present"
    return (lines[0] + b"\n", lines[1:]) if has_header and lines else (b"", lines)


class Records:
    """``answer`` answers a request by itself, or raises a ServingError. ``placeholder`` stands for bad records."""

    def __init__(self, placeholder: str, answer: Answer) -> None:
        self._placeholder = placeholder
        self._answer = answer

    def salvage(self, request: Request, error: ServingError) -> Response | ServingError:
        """The answer to a request of records that has failed with ``error``; that again, where no record is good and
        the fault is not theirs."""
        header, records = records_of(request)
        if not records or request.deadline.expired():
            return error
        first: list[Response] = []
        try:
            outcomes = self._outcomes(request, header, records, first)
        except DeadlineExceeded as exc:
            return exc
        if all(one.error is not None and one.error.status >= 500 for one in outcomes):
            return error
        kind = first[0].content_type if first else request.media_type
        body = joined(outcomes, kind, self._placeholder)
        return replace(first[0], body=body) if first else Response(body, kind)

    def _outcomes(self, request: Request, header: bytes, records: list[bytes], first: list[Response]) -> list[Outcome]:
        if request.deadline.expired():
            raise DeadlineExceeded("the deadline passed while records were answered one by one")
        try:
            response = self._answer(replace(request, body=header + b"\n".join(records) + b"\n"))
            lines = lines_of(response)
            if len(lines) != len(records):
                raise HandlerError(f"the handler gave {len(lines)} lines for {len(records)} records")
        except ServingError as error:
            if len(records) == 1:
                return [Outcome(error=error)]
            middle = len(records) // 2
            left = self._outcomes(request, header, records[:middle], first)
            return left + self._outcomes(request, header, records[middle:], first)
        first.append(response)
        return [Outcome(line) for line in lines]


def lines_of(response: Response) -> list[bytes]:
    """An answer's records: its lines, or the elements of a JSON list. Raises HandlerError where it has none."""
    kind = response.content_type.partition(";")[0].strip().lower()
    if kind in LINES:
        return [line for line in bytes(response.body).splitlines() if line.strip()]
    if kind == JSON:
        try:
            return [bytes(one) for one in msgspec.json.decode(response.body, type=list[msgspec.Raw])]
        except msgspec.DecodeError:
            pass
    raise HandlerError(f"an answer of type {kind} has no records")


def joined(outcomes: list[Outcome], content_type: str, placeholder: str) -> bytes:
    """The lines of all records in order. In JSON a placeholder that is none becomes a string."""
    kind = content_type.partition(";")[0].strip().lower()
    text = placeholder.encode()
    if kind == JSON or kind in JSON_LINES:
        text = as_json(text)
    lines = [text if one.error is not None else one.line for one in outcomes]
    return b"[" + b",".join(lines) + b"]" if kind == JSON else b"".join(line + b"\n" for line in lines)


def as_json(text: bytes) -> bytes:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return msgspec.json.encode(text.decode())
    return text
