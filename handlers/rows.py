"""The rows of a body, whatever it is written in: CSV, JSON, JSON Lines or npy."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from serving import BadRequest, Request, UnsupportedMediaType, codecs

Row = list[Any] | dict[str, Any]


def read_rows(request: Request, columns: Sequence[str], header: str) -> tuple[list[Any], bool]:
    """The rows of a body, each hopefully a Row, and whether it came as one bare row.

    ``header`` is ``auto``, ``present`` or ``absent``; rows below a CSV header become objects if the model's ``columns``
    have names. Raises BadRequest and UnsupportedMediaType.
    """
    kind = request.media_type or codecs.JSON
    if kind == codecs.CSV:
        told = "present" if "header=present" in request.content_type else header
        return read_csv(codecs.decode_text(request.body), columns, told), False
    if kind in codecs.JSON_LINES:
        return [codecs.parse_json(line) for line in bytes(request.body).splitlines() if line.strip()], False
    if kind == codecs.NPY:
        return bare(codecs.decode_npy(request.body, {}).tolist())
    if kind == codecs.JSON:
        return bare(unwrap(codecs.parse_json(request.body)))
    raise UnsupportedMediaType(f"content type {kind[:100]} holds no rows; known: CSV, JSON, JSON Lines, npy")


def bare(value: Any) -> tuple[list[Any], bool]:
    if not isinstance(value, list | dict):
        raise BadRequest("the body is neither a row nor a list of rows")
    single = isinstance(value, dict) or bool(value and not isinstance(value[0], list | dict))
    return ([value] if single else list(value)), single


def unwrap(value: Any) -> Any:
    """The rows within ``{"instances": …}`` or ``{"inputs": …}``."""
    if isinstance(value, dict) and len(value) == 1:
        return next((value[name] for name in codecs.WRAPPERS if name in value), value)
    return value


def read_csv(text: str, columns: Sequence[str], header: str) -> list[Any]:
    try:
        rows: list[Any] = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as exc:
        raise BadRequest(f"the body is no CSV: {exc}") from exc
    if not rows or header == "absent" or (header == "auto" and any(map(is_number, rows[0]))):
        return rows
    return by_name(rows) if columns else rows[1:]


def by_name(rows: list[Any]) -> list[Any]:
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise BadRequest("the header names a column twice")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(names):
            raise BadRequest(f"row {number} has {len(row)} columns; the header has {len(names)}")
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]


def is_number(field: str) -> bool:
    """Whether it stands for a value, not for a name. An empty field does: headers have none."""
    try:
        float(field or "0")
    except ValueError:
        return False
    return True


def to_csv(rows: Sequence[Sequence[Any]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
