"""Calls: the JSON bodies of calls that ask for models or change them."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from serving.errors import BadRequest

T = TypeVar("T")


def decode(data: bytes, type: type[T]) -> T:
    """Return a body as ``type``. Raises BadRequest, also for an object with a key twice."""
    try:
        value = msgspec.json.decode(data, type=type)
        json.loads(data, object_pairs_hook=check_keys, parse_int=str, parse_float=str)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise BadRequest(f"the body is not what this call takes: {exc}") from exc
    return value


def check_keys(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise BadRequest(f"the body has an object with the key {name[:80]!r} twice")
        seen.add(name)
