"""Rows: the rows of a body in CSV, JSON, JSON Lines or npy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from serving import BadRequest, Request, UnsupportedMediaType, claims, codecs
from serving.codecs.measuring import csv_cost

Row = list[Any] | dict[str, Any]
FEW = 64  # rows; fewer are not measured
OBJECT = 32  # bytes of a dict beyond its own size: a list entry and the garbage collector's header


def read_rows(request: Request, columns: Sequence[str], header: str) -> tuple[list[Any], bool]:
    """Return the rows of a body, unchecked, and whether it was a single bare row.

    ``header`` is ``auto``, ``present`` or ``absent``; rows below a CSV header become objects if the model's ``columns``
    have names. Raises BadRequest and UnsupportedMediaType.
    """
    kind, content_type = request.media_type or codecs.JSON, request.content_type
    if kind == codecs.CSV:
        header = codecs.header_of(content_type) or header
        claims.take(csv_cost(request.body))
        return read_csv(codecs.decode_text(request.body, content_type), columns, header), False
    if kind in codecs.JSON_LINES:
        return list(codecs.lines_of(request.body, content_type)), False
    if kind == codecs.NPY:
        return bare(codecs.decode_npy(request.body).tolist())
    if kind == codecs.JSON:
        return bare(unwrap(codecs.parse_json(request.body, content_type)))
    raise UnsupportedMediaType(f"content type {kind[:100]} holds no rows; known: CSV, JSON, JSON Lines, npy")


def bare(value: Any) -> tuple[list[Any], bool]:
    if not isinstance(value, list | dict):
        raise BadRequest("the body is neither a row nor a list of rows")
    single = isinstance(value, dict) or bool(value and not isinstance(value[0], list | dict))
    return ([value] if single else list(value)), single


def unwrap(value: Any) -> Any:
    """Return the rows within ``{"instances": …}`` or ``{"inputs": …}``."""
    if isinstance(value, dict) and len(value) == 1:
        return next((value[name] for name in codecs.WRAPPERS if name in value), value)
    return value


def read_csv(text: str, columns: Sequence[str], header: str) -> list[Any]:
    """Return the rows of CSV. With ``auto`` the first row is a header if it has the names of the model's columns.

    Any other first row without numbers is refused: it may be a header or a bad record. A record mistaken for a header
    would be lost, and all later answers would stand beside the wrong records.
    """
    rows: list[Any] = [row for _, _, row in codecs.split_rows(text)]
    if not rows or header == "absent":
        return rows
    if header == "auto" and not is_header(rows[0], columns):
        return rows
    return by_name(rows) if columns else rows[1:]


def is_header(row: list[str], columns: Sequence[str]) -> bool:
    """Return whether a row is a header. Raises BadRequest where that is ambiguous."""
    fields, numbers = [field.strip() for field in row], any(map(is_number, row))
    names = sorted(fields) == sorted(columns) if numbers else any(field in columns for field in fields)
    if names is not numbers:
        return names
    what = "may be a header or a record" if names else "has no number and is not the names of the model's columns"
    raise BadRequest(
        f"the first row of the CSV body {what}: say header=present or header=absent, in its content type "
        "(text/csv; header=present) or in the model's [options]"
    )


def by_name(rows: list[Any]) -> list[Any]:
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise BadRequest("the header names a column twice")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(names):
            raise BadRequest(f"row {number} has {len(row)} columns; the header has {len(names)}")
    # The rows' own memory is claimed already; the dicts need more.
    claims.take(len(rows) * (OBJECT + sys.getsizeof(dict.fromkeys(names))) if len(rows) > FEW else 0)
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]


def is_number(field: str) -> bool:
    """Return whether a field is a value, not a name. An empty field is: headers have none."""
    try:
        codecs.to_float(field or "0")
    except ValueError:
        return not field.strip()
    return True
