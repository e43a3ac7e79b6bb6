"""Content-Encoding: in which ways a body may be packed on its way here (RFC 9110 §8.4)."""

from __future__ import annotations

from serving.errors import UnsupportedMediaType

PACKED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
KNOWN = "gzip, deflate, identity"


def known_encoding(value: str) -> str:
    """How a body is packed by the value of its header: ``gzip`` or ``deflate``, "" for not at all. Raises
    UnsupportedMediaType for what is not known, and for a body that was packed more than once."""
    named = [name for part in value.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not named:
        return ""
    found = PACKED.get(named[0])
    if found is None or len(named) > 1:
        said = ", ".join(named)[:60]
        raise UnsupportedMediaType(f"Content-Encoding {said} is not supported; known: {KNOWN}, one at a time")
    return found
