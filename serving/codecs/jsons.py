"""JSON and lines of it to values: numbers become arrays, anything else what JSON makes of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import msgspec

from serving import claims
from serving.codecs.doubles import check_keys
from serving.codecs.measuring import json_cost, lines_cost
from serving.codecs.texts import json_text, utf8
from serving.errors import BadRequest
from serving.request import Body

WRAPPERS = ("instances", "inputs")
NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
LONG = 2.0**63  # from here on an integer is none of 64 bits


def parse_json(body: Body, content_type: str = "") -> Any:
    """What JSON says, in whatever encoding that it shows or its ``content_type`` names. Raises BadRequest, also for a
    key that an object has twice, UnsupportedMediaType, BodyTooLarge and BodiesFull."""
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
                return alone(to_array(value[name]), json_cost(body))
        return value
    return alone(to_array(value), json_cost(body))


def decode_lines(body: Body, content_type: str = "") -> Any:
    return alone(to_array(list(lines_of(body, content_type))), lines_cost(body))


def lines_of(body: Body, content_type: str = "") -> Iterator[Any]:
    """The values of JSON Lines; blank lines are none. Raises BadRequest that names the line, counted from 1, and
    BodyTooLarge and BodiesFull before more memory is taken than there is."""
    claims.take(lines_cost(body))
    data = utf8(body, content_type)
    decode, has_keys = msgspec.json.Decoder().decode, b":" in data
    for number, line in enumerate(cut(data) if b"\r" in data else io.BytesIO(data), 1):
        try:
            value = decode(line)
        except NO_JSON as exc:
            if not line.strip():
                continue
            raise BadRequest(f"line {number} of the body is no JSON: {exc}") from exc
        if has_keys:
            check_keys(line, value, f"line {number} of the body")
        yield value


def cut(data: bytes) -> Iterator[bytes]:
    """The same as ``splitlines``, one at a time: all at once take several times what is in them."""
    for line in io.BytesIO(data):
        yield from line.splitlines()


def alone(value: Any, cost: int) -> Any:
    """``value``, of which an array is all that is left of what took ``cost`` bytes."""
    if cost and hasattr(value, "nbytes"):
        claims.give(cost - value.nbytes)
    return value


def to_array(value: Any) -> Any:
    """Numbers, and nested lists of them that form a rectangle, as an array: int64 where all are integers, else float32;
    anything else as it is. Raises BadRequest for a number that float32 cannot hold."""
    if not isinstance(value, list | int | float) or not is_numeric(value):
        return value
    import numpy as np

    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return value  # ragged
    if array.dtype.kind != "f":
        return array if array.dtype.kind in "bi" else value
    if np.vdot(array, array) < LONG**2:  # the quickest way to see that all are small
        return array.astype(np.float32)
    return value if has_long(value) else float32(array)


def float32(array: Any) -> Any:
    """Raises BadRequest."""
    import numpy as np

    with np.errstate(over="raise"):
        try:
            return array.astype(np.float32)
        except FloatingPointError as exc:
            worst = max(array[np.isfinite(array)].ravel().tolist(), key=abs)
            raise BadRequest(f"{worst!r} is beyond the numbers of 32 bits that the body becomes") from exc


def has_long(value: Any) -> bool:
    """Whether one of the numbers is an integer beyond 64 bits, which no type of array keeps."""
    if isinstance(value, list):
        return any(map(has_long, value))
    return isinstance(value, int) and not -LONG <= value < LONG


def is_numeric(value: Any) -> bool:
    """Whether the first leaf is a number: a look that keeps numpy away from texts and objects."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float | list)
