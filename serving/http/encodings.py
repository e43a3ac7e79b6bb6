"""Content-Encoding: the ways in which a request's body may be compressed (RFC 9110 §8.4)."""

from __future__ import annotations

from serving.errors import UnsupportedMediaType

PACKED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
KNOWN = "gzip, deflate, identity"


def known_encoding(value: str) -> str:
    """Return the encoding in a Content-Encoding value: ``gzip`` or ``deflate``, "" for none. Raises
    UnsupportedMediaType for an unknown encoding, and for several.
    """
    named = [name for part in value.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not named:
        return ""
    found = PACKED.get(named[0])
    if found is None or len(named) > 1:
        names = ", ".join(named)[:60]
        raise UnsupportedMediaType(f"Content-Encoding {names} is not supported; known: {KNOWN}, one at a time")
    return found
