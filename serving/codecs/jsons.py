"""JSON and JSON Lines, decoded: numbers become arrays, anything else the value that JSON has."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import msgspec

from serving import claims
from serving.codecs.doubles import check_keys
from serving.codecs.exact import LONG, SURE, has_boolean, has_long, may_have_booleans, narrowed
from serving.codecs.measuring import json_cost, lines_cost
from serving.codecs.texts import json_text, utf8
from serving.errors import BadRequest
from serving.request import Body

WRAPPERS = ("instances", "inputs")
NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_json(body: Body, content_type: str = "") -> Any:
    """Parse JSON in the encoding that it shows or that ``content_type`` names.

    Raises BadRequest, also for a duplicate key, UnsupportedMediaType, BodyTooLarge and BodiesFull.
    """
    claims.take(json_cost(body))
    if ";" not in content_type:
        try:
            value = msgspec.json.decode(body)
        except NO_JSON:
            pass  # it may be in another encoding
        else:
            check_keys(body, value)
            return value
    return parse(json_text(body, content_type))


def parse(text: Body | str, where: str = "the body") -> Any:
    try:
        value = msgspec.json.decode(text)
    except NO_JSON as exc:
        raise BadRequest(f"{where} is no JSON: {exc}") from exc
    check_keys(text, value, where)
    return value


def decode_json(body: Body, content_type: str = "") -> Any:
    value = parse_json(body, content_type)
    if isinstance(value, dict):
        for name in WRAPPERS:
            if name in value:
                return alone(to_array(value[name], body), json_cost(body))
        return value
    return alone(to_array(value, body), json_cost(body))


def decode_lines(body: Body, content_type: str = "") -> Any:
    return alone(to_array(list(lines_of(body, content_type)), body), lines_cost(body))


def lines_of(body: Body, content_type: str = "") -> Iterator[Any]:
    """Yield the values of JSON Lines without blank lines.

    A line ends with LF or CR LF; any other CR is white space.

    Raises BadRequest with the line number, from 1; BodyTooLarge and BodiesFull before it takes too much memory.
    """
    claims.take(lines_cost(body))
    data = utf8(body, content_type)
    decode, has_keys = msgspec.json.Decoder().decode, b":" in data
    for number, line in enumerate(io.BytesIO(data), 1):
        try:
            value = decode(line)
        except NO_JSON as exc:
            if not line.strip():
                continue
            raise BadRequest(f"line {number} of the body is no JSON: {exc}") from exc
        if has_keys:
            check_keys(line, value, f"line {number} of the body")
        yield value


def alone(value: Any, cost: int) -> Any:
    """Return ``value``; if it is an array, give back the memory of its ``cost`` that it does not need."""
    if cost and hasattr(value, "nbytes"):
        claims.give(cost - value.nbytes)
    return value


def to_array(value: Any, text: Body | None = None) -> Any:
    """Convert a number, or nested lists of numbers that form a rectangle, to an array; return anything else unchanged.

    The array is int64 where all are integers, else float32; float64 where that would change an integer. One of
    booleans is bool, and booleans among numbers are something else. ``text`` is JSON with all of ``value``, if there
    is any. Raises BadRequest for a number beyond float32, and an integer among others that float64 does not hold.
    """
    if not isinstance(value, list | int | float) or not is_numeric(value):
        return value
    import numpy as np

    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return value  # ragged
    if array.dtype.kind in "if" and may_have_booleans(text) and has_boolean(value):
        return value
    if array.dtype.kind != "f":
        return array if array.dtype.kind in "bi" else value
    size = np.vdot(array, array)
    if size < SURE**2:  # the quickest test that all are small
        return array.astype(np.float32)
    return value if size >= LONG**2 and has_long(value) else narrowed(array, value)


def is_numeric(value: Any) -> bool:
    """Return whether the first leaf is a number, so that numpy gets no texts or objects."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float | list)
