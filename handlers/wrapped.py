"""Wrapped: a picture or sound in a form, in JSON as base64, or under a generic type."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from handlers.multipart import name_of, parts_of
from serving import BadRequest, Request, UnsupportedMediaType, claims, codecs

UNTOLD = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is curl's default
FORM = "multipart/form-data"
BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]+)"|([^\s";,]+))', re.IGNORECASE)
PARAMETERS = "parameters"
KEYS = ("b64", "image_bytes", "image", "audio", "data", "body", "bytes", "inputs", "instances")
DEPTH = 4  # levels of objects and lists around a base64 text
SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x00\x00\x00\x0cjP  ", "image/jp2"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\x93NUMPY", codecs.NPY),
)
BOXES = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}  # in a RIFF file
BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"mif1": "image/heic"}


def sniff(body: bytes) -> str:
    """Return a file's media type by its first bytes, "" for an unknown one."""
    head = bytes(body[:32])
    if head[:4] == b"RIFF":
        return BOXES.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "")
    return next((kind for start, kind in SIGNATURES if head.startswith(start)), "")


def unwrapped(request: Request, what: str) -> Request:
    """Return the request with the file that it carries as its body; ``what`` is ``picture`` or ``sound``.

    A form has one file, and no other field but ``parameters``. JSON is ``{"b64": "…"}``, a base64 text or a ``data:``
    URL, bare or below one of KEYS, alone in a list or not. A body of a generic type is recognised by its first bytes.
    Any other request is returned unchanged. Raises BadRequest, and UnsupportedMediaType for the bytes of an unknown
    file.
    """
    kind = request.media_type
    if kind == FORM:
        found = BOUNDARY.search(request.content_type)
        body, told = file_of(bytes(request.body), found[1] or found[2] if found else "", what)
    elif kind == codecs.JSON:
        value = codecs.parse_json(request.body, request.content_type)
        body, told = from_text(text_of(value, what), what), ""
    elif kind in UNTOLD:
        body, told = bytes(request.body[:32]), ""
    else:
        return request
    if told.partition(";")[0].strip().lower() in UNTOLD:
        told = sniff(body)
    if not told:
        raise UnsupportedMediaType(f"the first bytes of the body are those of no {what} that is known")
    if kind in UNTOLD:
        return msgspec.structs.replace(request, content_type=told)
    return msgspec.structs.replace(request, body=body, content_type=told)


def text_of(value: Any, what: str) -> str:
    """Return the only base64 text in a JSON body. Raises BadRequest."""
    for _ in range(DEPTH):
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            if len(value) != 1:
                raise BadRequest(f"the body has {len(value)} {what}s; one is expected in a request")
            value = value[0]
        elif isinstance(value, dict):
            found = [key for key in KEYS if value.get(key) is not None]
            if len(found) > 1:
                raise BadRequest(f"the body has a {what} in each of {', '.join(found)}; one is expected in a request")
            value = value[found[0]] if found else None
    if isinstance(value, str):
        return value
    raise BadRequest(f'expected a {what} as {{"b64": "…"}}, or as base64 below one of {", ".join(KEYS[1:])}')


def from_text(text: str, what: str) -> bytes:
    """Decode base64. Raises BadRequest."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    claims.take(len(text))
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest(f"the {what} is no base64: {exc}") from exc


def file_of(body: bytes, boundary: str, what: str) -> tuple[bytes, str]:
    """Return the only file of a form, and its content type. Raises BadRequest."""
    if not boundary:
        raise BadRequest("the form's content type names no boundary")
    claims.take(2 * len(body))
    parts = [one for one in parts_of(body, boundary.encode("latin-1", "replace")) if name_of(one[0]) != PARAMETERS]
    files = [one for one in parts if b"filename" in one[0].lower()] or parts
    if len(files) != 1:
        raise BadRequest(f"the form has {len(files)} files; one {what} is expected")
    if len(parts) > 1:
        names = [name_of(one[0])[:80] for one in parts if one is not files[0]]
        raise BadRequest(f"the form has a field {names[0]!r}; known beside the {what}: {PARAMETERS}")
    head, content = files[0]
    lines = [line.partition(b":") for line in head.split(b"\r\n")]
    told = [value.strip() for name, _, value in lines if name.strip().lower() == b"content-type"]
    return content, told[0].decode("latin-1") if told else ""


def parameters_in(body: bytes, content_type: str) -> Any:
    """Return a form's field ``parameters`` as parsed JSON, None without it. Raises BadRequest."""
    boundary = BOUNDARY.search(content_type)
    if boundary is None:
        return None
    claims.take(2 * len(body))
    parts = parts_of(body, (boundary[1] or boundary[2]).encode("latin-1", "replace"))
    found = [content for head, content in parts if name_of(head) == PARAMETERS]
    claims.give(2 * len(body))
    if len(found) > 1:
        raise BadRequest(f"the form has {len(found)} fields {PARAMETERS}; one is expected")
    return codecs.parse_json(found[0], codecs.JSON) if found else None
