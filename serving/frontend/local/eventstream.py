"""Messages of ``application/vnd.amazon.eventstream``, the framing in which the platform's clients read a stream.

    total length u32 | length of headers u32 | CRC-32 of these | headers | payload | CRC-32 of all before it

All integers are big-endian. A header is its name and its value, each after its length; every value here is a string.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

from serving.request import Body

MEDIA_TYPE = b"application/vnd.amazon.eventstream"
PART_LIMIT = 1 << 20  # bytes of one part; clients refuse messages above 16 MiB
STRING = 7  # the type of a header's value
PRELUDE = struct.Struct(">II")
CRC = struct.Struct(">I")
FRAME = PRELUDE.size + 2 * CRC.size  # bytes around headers and payload


def header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack(f">B{len(key)}sBH", len(key), key, STRING, len(text)) + text


def message(headers: Mapping[str, str], payload: Body) -> bytes:
    """Return one message. Names have at most 255 bytes, values at most 65,535."""
    head = b"".join(header(name, value) for name, value in headers.items())
    prelude = PRELUDE.pack(FRAME + len(head) + len(payload), len(head))
    prelude += CRC.pack(zlib.crc32(prelude))
    checksum = zlib.crc32(payload, zlib.crc32(head, zlib.crc32(prelude)))
    return b"".join((prelude, head, payload, CRC.pack(checksum)))


def event(kind: str, payload: Body) -> bytes:
    """Return an event whose payload is the bytes of its only member."""
    headers = {":message-type": "event", ":event-type": kind, ":content-type": "application/octet-stream"}
    return message(headers, payload)


def exception(kind: str, payload: bytes) -> bytes:
    """Return a message that a client raises as an exception; ``payload`` is its members in JSON."""
    headers = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
    return message(headers, payload)


def parts(body: Body, limit: int = PART_LIMIT) -> Iterator[bytes]:
    """Return ``body`` as ``PayloadPart`` events of at most ``limit`` bytes each; none for an empty body."""
    view = memoryview(body)
    for start in range(0, len(view), limit):
        yield event("PayloadPart", view[start : start + limit])
