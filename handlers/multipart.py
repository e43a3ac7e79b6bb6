"""Multipart: the parts of a form, their heads and contents."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serving import BadRequest

NAME = re.compile(rb'content-disposition:[^\r\n]*?;\s*name=(?:"([^"\r\n]*)"|([^\s";,]+))', re.IGNORECASE)


def name_of(head: bytes) -> str:
    """The name of a part, by its head; "" for one that has none."""
    found = NAME.search(head)
    return (found[1] or found[2] or b"").decode("utf-8", "replace") if found else ""


def parts_of(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Heads and contents (RFC 7578, RFC 2046 §5.1.1). Raises BadRequest."""
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if not parts or not parts[-1].startswith(b"--"):
        raise BadRequest("the form does not end with its boundary")
    for part in parts[:-1]:
        head, end, content = part.partition(b"\r\n\r\n")
        if not end:
            raise BadRequest("a part of the form has no head")
        yield head, content
