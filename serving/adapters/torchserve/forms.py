"""Forms: the fields of ``application/x-www-form-urlencoded`` and ``multipart/form-data`` bodies (RFC 7578)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from serving.errors import BadRequest
from serving.http.accept import parameters

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Field:
    """One field. ``content_type`` is that of a file, and "" for all other fields, whatever they declare."""

    name: str
    value: bytes
    content_type: str = ""


def urlencoded(body: bytes) -> list[Field]:
    """Return the fields of a URL-encoded body. Raises BadRequest for too many."""
    parts = [part for part in body.strip().split(b"&") if part]
    if len(parts) > PARTS:
        raise BadRequest(f"the form has more than {PARTS} fields")
    pairs = (part.replace(b"+", b" ").partition(b"=") for part in parts)
    return [
        Field(unquote_to_bytes(name).decode("utf-8", "replace"), unquote_to_bytes(value)) for name, _, value in pairs
    ]


def multipart(body: bytes, content_type: str) -> list[Field]:
    """Return the fields of a multipart body. Raises BadRequest for a body that does not match its boundary."""
    boundary = parameters(content_type).get("boundary", "").encode("latin-1", "replace")
    if not boundary:
        raise BadRequest("multipart/form-data has no boundary")
    # The line break before a boundary belongs to it; the body may begin with the first boundary.
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, PARTS + 1)
    if len(parts) > PARTS:
        raise BadRequest(f"the form has more than {PARTS} fields")
    if not parts or not parts[-1].startswith(b"--"):
        raise BadRequest("the multipart form does not end with its boundary")
    return [field_of(part) for part in parts[:-1]]


def field_of(part: bytes) -> Field:
    _, first, rest = part.partition(b"\r\n")
    head, end, value = (b"\r\n" + rest).partition(b"\r\n\r\n")
    headers = dict(header_of(line) for line in head.split(b"\r\n") if line)
    told = parameters(headers.get("content-disposition", ""))
    if not first or not end or "name" not in told:
        raise BadRequest("a part of the multipart form has no name")
    if "filename" not in told:
        return Field(told["name"], value)
    kind = headers.get("content-type", "application/octet-stream")
    return Field(told["name"], value, kind.partition(";")[0].strip())


def header_of(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode("utf-8", "replace").partition(":")
    return name.strip().lower(), value.strip()
