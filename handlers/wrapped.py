"""Wrapped: a picture or sound in a form, in JSON as base64, or under a generic type."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from serving import BadRequest, Request, UnsupportedMediaType, claims, codecs
from serving.codecs.forms import boundary_of, parts_of

GENERIC = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is curl's default
FORM = "multipart/form-data"
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
        body, content_type = file_of(request, what)
    elif kind == codecs.JSON:
        value = codecs.parse_json(request.body, request.content_type)
        body, content_type = from_text(text_of(value, what), what), ""
    elif kind in GENERIC:
        body, content_type = bytes(request.body[:32]), ""
    else:
        return request
    if content_type.partition(";")[0].strip().lower() in GENERIC:
        content_type = sniff(body)
    if not content_type:
        raise UnsupportedMediaType(f"the first bytes of the body are those of no {what} that is known")
    if kind in GENERIC:
        return msgspec.structs.replace(request, content_type=content_type)
    return msgspec.structs.replace(request, body=body, content_type=content_type)


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


def file_of(request: Request, what: str) -> tuple[bytes, str]:
    """Return the only file of a form, and its content type. Raises BadRequest."""
    claims.take(2 * len(request.body))
    parts = [part for part in parts_of(request.body, request.content_type) if part.name != PARAMETERS]
    files = [part for part in parts if part.filename is not None] or parts
    if len(files) != 1:
        raise BadRequest(f"the form has {len(files)} files; one {what} is expected")
    if len(parts) > 1:
        names = [(part.name or "")[:80] for part in parts if part is not files[0]]
        raise BadRequest(f"the form has a field {names[0]!r}; known beside the {what}: {PARAMETERS}")
    return files[0].value, files[0].content_type


def parameters_in(body: bytes, content_type: str) -> Any:
    """Return a form's field ``parameters`` as parsed JSON, None without it. Raises BadRequest."""
    if not boundary_of(content_type):
        return None
    claims.take(2 * len(body))
    found = [part.value for part in parts_of(body, content_type) if part.name == PARAMETERS]
    claims.give(2 * len(body))
    if len(found) > 1:
        raise BadRequest(f"the form has {len(found)} fields {PARAMETERS}; one is expected")
    return codecs.parse_json(found[0], codecs.JSON) if found else None
