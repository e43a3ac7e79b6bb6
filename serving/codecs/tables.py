"""CSV to rows and to arrays of numbers, and rows to CSV (RFC 4180)."""

from __future__ import annotations

import csv
import io
import math
from array import array as machine_array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from serving import claims
from serving.codecs.jsons import alone, float32
from serving.codecs.measuring import numbers_cost, text_cost
from serving.codecs.texts import decode_text
from serving.errors import BadRequest
from serving.http.accept import parameters
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

HEADERS = ("", "present", "absent")


class RowsUnclear(BadRequest):
    """How many rows there are cannot be told, whatever is in them."""


def header_of(content_type: str) -> str:
    """What the ``header`` parameter of a Content-Type says: ``present``, ``absent`` or "". Raises BadRequest."""
    said = parameters(content_type).get("header", "").lower() if ";" in content_type else ""
    if said not in HEADERS:
        raise BadRequest(f"header is {said[:40]!r} in the content type; allowed: present, absent")
    return said


def split_rows(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """The rows of a CSV, each with the line that it begins at, counted from 1, and as it is written there.

    Blank lines at the end are none, nor are those before rows of many columns; before a row of one column a blank line
    is a row whose value is missing, so that after such a one nobody can tell what those at the end are. One row is
    there at a time: lists of texts take many times what is in them. Raises BadRequest, which is RowsUnclear in this
    case.
    """
    lines: list[str] = []  # of the row that is read

    def read() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(read(), strict=True)
    start = blank = missing = 0  # lines before this row, how many of them are blank, and the last one that was a row
    try:
        for row in reader:
            if row:
                if len(row) == 1:
                    missing = start if blank else missing
                    yield from ((number, "", [""]) for number in range(start - blank + 1, start + 1))
                blank = 0
                yield start + 1, "".join(lines).rstrip("\r\n"), row
            else:
                blank += 1
            lines.clear()
            start = reader.line_num
    except csv.Error as exc:
        raise BadRequest(f"line {start + 1} of the body is no CSV: {exc}") from exc
    if blank and missing:
        raise RowsUnclear(
            f"line {missing} of the CSV body is blank, a missing value; whether the blank one at its end is one "
            'as well cannot be told: write "" for what is missing'
        )


def decode_record(body: Body, content_type: str) -> np.ndarray:
    """One row of numbers, below its header where the type says so, to float32 [columns]. Raises BadRequest."""
    array = decode_csv(body, content_type, "")
    if len(array) != 1:
        raise BadRequest(f"the CSV record has {len(array)} rows")
    return array[0]  # type: ignore[no-any-return]


def decode_csv(body: Body, content_type: str = "text/csv", place: str = "line {}, ") -> np.ndarray:
    """Numbers in rows to float32 [rows, columns]; an empty field is NaN; ``header=present`` skips the first row.
    ``place`` is how a line is named, where something is wrong with it."""
    cost = numbers_cost(body)
    claims.take(cost)
    array: np.ndarray = alone(to_numbers(decode_text(body, content_type), header_of(content_type), place), cost)
    claims.give(text_cost(body))
    return array


def to_numbers(text: str, header: str, place: str) -> np.ndarray:
    import numpy as np

    rows = split_rows(text)
    if header == "present":
        next(rows, None)
    numbers = machine_array("d")
    count = width = 0
    for line, _, row in rows:
        where = place.format(line)
        numbers.extend(number_of(field, where, column) for column, field in enumerate(row, 1))
        width = width if count else len(row)
        if len(row) != width:
            raise BadRequest(
                f"the rows of the CSV body differ in length: line {line} has {len(row)} columns, the first row {width}"
            )
        count += 1
    return float32(np.asarray(numbers)).reshape(count, width)  # type: ignore[no-any-return]


def number_of(field: str, where: str, column: int) -> float:
    """Raises BadRequest."""
    if not field.strip():
        return math.nan
    try:
        return to_float(field)
    except ValueError as exc:
        raise BadRequest(f"{where}column {column} of the CSV body is no number: {field[:40]!r}") from exc


def to_float(field: str) -> float:
    """A number as CSV has it. Raises ValueError, also for what only Python takes for one, and for one that is too large
    to be one of 64 bits."""
    value = float(field)
    if "_" in field or not field.isascii() or (math.isinf(value) and "inf" not in field.lower()):
        raise ValueError(field)
    return value


def to_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Fields are quoted where they must be. Raises UnicodeEncodeError."""
    lines = []
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer).writerow(row)  # whose own end of a line is what has both of its characters quoted
        lines.append(buffer.getvalue().removesuffix("\r\n"))
    return "".join(f"{line}\n" for line in lines).encode()
