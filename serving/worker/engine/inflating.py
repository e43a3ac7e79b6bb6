"""Inflating: the unpacking of compressed bodies, within the limits of memory.

It happens where the body is decoded: bytes of strangers are not unpacked in a process that serves others too.
"""

from __future__ import annotations

import zlib

from msgspec.structs import replace

from serving import claims
from serving.codecs.measuring import CHUNK
from serving.errors import BadRequest, BodyTooLarge
from serving.request import Request

GZIP, ZLIB, BARE = 31, 15, -15  # zlib's "windowBits" of these formats
SLICE = 64 * 1024  # bytes that zlib gets at a time, since it copies the unused rest
MEMBERS = 10_000  # members of a gzip body; tools that make gzip files seekable write many
DEFLATED = 8  # the low bits of the first byte where deflate has its zlib header (RFC 1950)


class Limit:
    """The most bytes of an unpacked body; 0 is no limit."""

    most = 0


def set_limit(most: int) -> None:
    """Set the limit for all requests of this process."""
    Limit.most = most


def unpacked(request: Request) -> Request:
    """Return the request with its body unpacked. Raises BadRequest for a corrupt body, BodyTooLarge and BodiesFull."""
    body = inflate(memoryview(request.body), request.content_encoding, Limit.most)
    return replace(request, body=body, content_encoding="")


def inflate(packed: memoryview, encoding: str, most: int) -> bytearray:
    form = GZIP if encoding == "gzip" else form_of(bytes(packed[:2]))
    body, at, members = bytearray(), 0, 0
    while at < len(packed) or not members:
        members += 1
        if members > MEMBERS:
            raise BadRequest(f"the {encoding} body has more than {MEMBERS} parts")
        at = inflate_one(packed, at, form, body, most, encoding)
        if form != GZIP and at < len(packed):
            raise BadRequest(f"something comes behind the {encoding} body")
    return body


def inflate_one(packed: memoryview, at: int, form: int, body: bytearray, most: int, encoding: str) -> int:
    """Unpack one member of ``packed``, from offset ``at``, onto ``body``. Returns the offset behind it."""
    inflater = zlib.decompressobj(form)
    data = b""
    while not inflater.eof:
        if not data:
            data = bytes(packed[at : at + SLICE])
            at += len(data)
            if not data:
                raise BadRequest(f"the {encoding} body ends early")
        claims.take(CHUNK)
        try:
            chunk = inflater.decompress(data, CHUNK)
        except zlib.error as exc:
            raise BadRequest(f"the body is no {encoding}") from exc
        claims.give(CHUNK - len(chunk))
        body += chunk
        if most and len(body) > most:
            raise BodyTooLarge(f"the body unpacks to more than {most} bytes")
        data = inflater.unconsumed_tail
    return at - len(inflater.unused_data)


def form_of(start: bytes) -> int:
    """Return the format of a deflate body: some clients leave out the zlib header."""
    is_headed = len(start) == 2 and start[0] & 0x0F == DEFLATED and int.from_bytes(start) % 31 == 0
    return ZLIB if is_headed else BARE
