"""Multipart: the headers and contents of a form's parts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serving import BadRequest

PARTS = 10_000
NAME = re.compile(rb'content-disposition:[^\r\n]*?;\s*name=(?:"([^"\r\n]*)"|([^\s";,]+))', re.IGNORECASE)


def name_of(head: bytes) -> str:
    """Return a part's name, by its headers; "" where there is none."""
    found = NAME.search(head)
    return (found[1] or found[2] or b"").decode("utf-8", "replace") if found else ""


def parts_of(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield headers and content of each part (RFC 7578, RFC 2046 §5.1.1). Raises BadRequest, also for too many."""
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, PARTS + 2)
    if len(parts) > PARTS + 1:
        raise BadRequest(f"the form has more than {PARTS} parts")
    if not parts or not parts[-1].startswith(b"--"):
        raise BadRequest("the form does not end with its boundary")
    for part in parts[:-1]:
        head, end, content = part.partition(b"\r\n\r\n")
        if not end:
            raise BadRequest("a part of the form has no head")
        yield head, content
