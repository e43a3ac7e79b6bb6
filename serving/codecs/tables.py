"""Tables: CSV decoded to rows and arrays of numbers, and rows encoded as CSV (RFC 4180)."""

from __future__ import annotations

import csv
import io
import math
import re
from array import array as machine_array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from serving import claims
from serving.codecs.exact import chosen, doubtful, float32
from serving.codecs.jsons import alone
from serving.codecs.measuring import numbers_cost, text_cost
from serving.codecs.texts import decode_text
from serving.errors import BadRequest
from serving.http.accept import parameters
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

INTEGER = re.compile("[+-]?[0-9]+")
HEADERS = ("", "present", "absent")


class RowsUnclear(BadRequest):
    """The number of rows is ambiguous, whatever their values."""


def header_of(content_type: str) -> str:
    """Return the ``header`` parameter of a Content-Type: ``present``, ``absent`` or "".

    Raises BadRequest for another value.
    """
    header = parameters(content_type).get("header", "").lower() if ";" in content_type else ""
    if header not in HEADERS:
        raise BadRequest(f"header is {header[:40]!r} in the content type; allowed: present, absent")
    return header


def split_rows(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each row of a CSV: the number of its first line, from 1, its text as written, and its fields.

    Blank lines at the end are not rows, nor are those before rows of several columns. Before a row of one column a
    blank line is a row with a missing value; after such a row blank lines at the end are ambiguous. One row is in
    memory at a time: lists of texts take many times their size. Raises BadRequest, in that case RowsUnclear.
    """
    lines: list[str] = []  # of the current row

    def read() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(read(), strict=True)
    start = blank = missing = 0  # lines before this row, the blank ones directly before it, the last blank row
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
    """Decode one row of numbers, below a header if the type says so, to float32 [columns]. Raises BadRequest."""
    array = decode_csv(body, content_type, "")
    if len(array) != 1:
        raise BadRequest(f"the CSV record has {len(array)} rows")
    return array[0]  # type: ignore[no-any-return]


def decode_csv(body: Body, content_type: str = "text/csv", place: str = "line {}, ") -> np.ndarray:
    """Decode rows of numbers to float32 [rows, columns]; an empty field is NaN; ``header=present`` skips the first row.

    ``place`` is the format of a line's name in errors.
    """
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
    array = np.asarray(numbers)
    found = float32(array)
    if places := doubtful(array, found):
        found = chosen(array, found, integers_at(places, text, header))
    return found.reshape(count, width)


def integers_at(places: list[int], text: str, header: str) -> Iterator[tuple[int, int]]:
    """Yield those ``places`` of CSV, fields in order without the header, that hold an integer, and the integer."""
    rows = split_rows(text)
    if header == "present":
        next(rows, None)
    fields = (field for _, _, row in rows for field in row)
    wanted = iter(places)
    place = next(wanted, None)
    for at, field in enumerate(fields):
        if at == place:
            if INTEGER.fullmatch(field.strip()):
                yield at, int(field)
            place = next(wanted, None)


def number_of(field: str, where: str, column: int) -> float:
    """Return a field's number, NaN where it is blank. Raises BadRequest for other text."""
    if not field.strip():
        return math.nan
    try:
        return to_float(field)
    except ValueError as exc:
        raise BadRequest(f"{where}column {column} of the CSV body is no number: {field[:40]!r}") from exc


def to_float(field: str) -> float:
    """Return a CSV number.

    Raises ValueError, also for forms that only Python accepts and for numbers beyond 64 bits.
    """
    value = float(field)
    if "_" in field or not field.isascii() or (math.isinf(value) and "inf" not in field.lower()):
        raise ValueError(field)
    return value


def to_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return rows as CSV, with quotes where needed. Raises UnicodeEncodeError."""
    lines = []
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer).writerow(row)  # its default line end makes it quote both CR and LF
        lines.append(buffer.getvalue().removesuffix("\r\n"))
    return "".join(f"{line}\n" for line in lines).encode()
