"""Forms: the fields of ``application/x-www-form-urlencoded`` and ``multipart/form-data`` bodies (RFC 7578)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from serving.codecs.forms import PARTS, FormPart, parts_of
from serving.errors import BadRequest

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"


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
    """Return the fields of a multipart body. Raises BadRequest for a malformed one, or a part without a name."""
    return [field_of(part) for part in parts_of(body, content_type)]


def field_of(part: FormPart) -> Field:
    if part.name is None:
        raise BadRequest("a part of the multipart form has no name")
    if part.filename is None:
        return Field(part.name, part.value)
    kind = part.content_type or "application/octet-stream"
    return Field(part.name, part.value, kind.partition(";")[0].strip())
