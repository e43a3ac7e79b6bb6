"""Target: what the request line asks for."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

import httptools

from serving.errors import BadRequest


class Target(NamedTuple):
    """The target of a request line. ``path`` is decoded, ``raw_path`` is as sent."""

    path: str
    raw_path: bytes
    query: bytes


def read_target(url: bytes) -> Target:
    """Parse the target, a path or a whole URL. Raises BadRequest."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise BadRequest("this is not the address of a request") from None
    raw = parsed.path or b""
    path = raw.decode("ascii")
    return Target(unquote(path) if "%" in path else path, raw, parsed.query or b"")
