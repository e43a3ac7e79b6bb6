"""Accept: negotiation of a response's media type (RFC 9110 §12.5.1), and the parameters of Content-Type values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from serving.errors import NotAcceptable
from serving.request import USUAL, media_type


def parameters(content_type: str) -> dict[str, str]:
    """Return the parameters of a Content-Type value by name in lower case, quotes removed."""
    pairs = (part.partition("=") for part in content_type.split(";")[1:])
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def negotiate(accept: str, offered: Sequence[str], default: str) -> str:
    """Return the offered type that an Accept value prefers (RFC 9110 §12.5.1); ``default`` where it has no preference.

    Invalid parts of the value are ignored. Raises NotAcceptable.
    """
    find = _negotiate if len(accept) <= USUAL else _negotiate.__wrapped__
    return find(accept, tuple(offered), default)


@lru_cache(1024)
def _negotiate(accept: str, offered: tuple[str, ...], default: str) -> str:
    ranges = [one for one in map(media_range, accept.split(",")) if one is not None]
    if not ranges:
        return default
    order = [default, *(kind for kind in offered if kind != default)] if default in offered else list(offered)
    best = max(order, key=lambda kind: quality(kind, ranges), default="")
    if not best or quality(best, ranges) <= 0:
        raise NotAcceptable(f"nothing fits Accept: {accept[:100]}; offered: {', '.join(offered)}")
    return best


def media_range(part: str) -> tuple[str, float] | None:
    kind = media_type(part)
    if kind.count("/") != 1 or kind.startswith("/") or kind.endswith("/") or not kind.isprintable():
        return None
    try:
        q = float(parameters(part).get("q", "1"))
    except ValueError:
        return None
    return (kind, q) if 0 <= q <= 1 else None


def quality(kind: str, ranges: list[tuple[str, float]]) -> float:
    """Return the quality of ``kind`` by the most specific range that covers it; 0 where none does."""
    for pattern in (kind, kind.partition("/")[0] + "/*", "*/*"):
        qualities = [q for one, q in ranges if one == pattern]
        if qualities:
            return max(qualities)
    return 0.0


def concrete(accept: str) -> str | None:
    """Return the type that an Accept value names, if it names exactly one."""
    ranges = [one for one in map(media_range, accept.split(",")) if one is not None]
    return ranges[0][0] if len(ranges) == 1 and "*" not in ranges[0][0] else None


def wanted(accept: str, default: str) -> str:
    """Return the type that the client prefers among those it names; ``default`` where it names none. Raises
    NotAcceptable where it refuses the default.
    """
    ranges = [one for one in map(media_range, accept.split(",")) if one is not None]
    named = [one for one in ranges if "*" not in one[0] and one[1] > 0]
    if not named or any(one[1] > max(q for _, q in named) for one in ranges):
        if refuses(ranges, media_type(default)):
            raise NotAcceptable(f"nothing fits Accept: {accept[:100]}; without a wish it is {default}")
        return default
    return max(named, key=lambda one: one[1])[0]


def refuses(ranges: Sequence[tuple[str, float]], kind: str) -> bool:
    """Return whether the most specific range that covers ``kind`` has quality 0."""
    covered = any(one in (kind, kind.partition("/")[0] + "/*", "*/*") for one, _ in ranges)
    return covered and quality(kind, list(ranges)) <= 0
