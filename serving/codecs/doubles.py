"""Doubles: duplicate keys in JSON objects, of which parsers silently keep the last.

Each key is followed by a colon, so a value with as many keys as the text has colons has lost none. Counting both is
quick; only where texts seem to contain such colons too is the body parsed again.
"""

from __future__ import annotations

import json
from typing import Any

from serving import claims
from serving.codecs.measuring import json_cost, text_cost
from serving.errors import BadRequest
from serving.request import Body

BEFORE = b'" \t\n\r'


class DoubleKey(Exception):
    """A duplicate key; its argument is the key."""


def check_keys(text: Body | str, value: Any, where: str = "the body") -> None:
    """Raise BadRequest where an object in ``text`` has a key twice; ``value`` is the parsed JSON.

    Raises BodyTooLarge and BodiesFull where there is no memory to check.
    """
    if isinstance(text, memoryview):
        text = bytes(text)
    colons = text.count(":") if isinstance(text, str) else text.count(b":")
    if not colons or (type(value) is dict and len(value) == colons):
        return
    keys = keys_in(value, colons)
    if keys < colons and keys < ends_of_keys(text):
        name = double_in(text)
        if name is not None:
            raise BadRequest(f"{where} has an object with the key {name[:80]!r} twice")


def ends_of_keys(text: bytes | bytearray | str) -> int:
    """Count the colons behind a quote or a blank, as those behind keys are."""
    data = text.encode() if isinstance(text, str) else text
    found, at = 0, data.find(b":")
    while at >= 0:
        found += data[at - 1] in BEFORE
        at = data.find(b":", at + 1)
    return found


def keys_in(value: Any, most: int) -> int:
    """Count the keys of all objects in ``value``, and stop once there are ``most``.

    Objects are searched before lists, since long lists seldom hold any.
    """
    found = len(value) if type(value) is dict else 0
    lists: list[Any] = [value] if type(value) is list else []
    objects: list[Any] = [value] if type(value) is dict else []
    while found < most and (objects or lists):
        one = (objects or lists).pop()
        parts = one.values() if type(one) is dict else one
        kinds = set(map(type, parts))
        if kinds == {dict}:
            found += sum(map(len, parts))
            objects.extend(parts)
        elif dict in kinds or list in kinds:
            for part in parts:
                if type(part) is dict:
                    found += len(part)
                    objects.append(part)
                elif type(part) is list:
                    lists.append(part)
    return found


def double_in(text: bytes | bytearray | str) -> str | None:
    """Return the first duplicate key; None where there is none."""

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise DoubleKey(name)
            seen.add(name)

    data = text.encode() if isinstance(text, str) else text
    cost = json_cost(data) + text_cost(data)
    claims.take(cost)
    try:
        json.loads(text, object_pairs_hook=look, parse_int=str, parse_float=str)
    except DoubleKey as exc:
        return str(exc.args[0])
    except (ValueError, RecursionError):  # Python's json rejects it
        return None
    finally:
        claims.give(cost)
    return None
