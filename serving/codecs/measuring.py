"""Measuring: the memory that a decoded body will take, estimated from its header or from a scan."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from typing import Any

from serving import claims
from serving.errors import BadRequest
from serving.request import Body

GLANCED = 16 * 1024  # bytes; smaller texts are not measured
COPIES = 16  # bytes of a pixel at the peak of decoding: original, upright, RGB and array
ENTRY = 1024  # bytes of an archive entry's metadata
INFLATION = 1032  # bytes, at most, from one byte of deflate
SUSPICIOUS = 8  # bytes from one of a PNG's data above which they are counted first
CODES = 2731  # pixels, at most, from one byte of a GIF: 4096 from a code of 12 bits
PIXEL_LIMIT = 100_000_000  # larger images are refused before decoding
CHUNK = 1 << 20
RECORD = 288  # bytes of a record's overhead, answer included
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7


def json_cost(body: Body) -> int:
    """Return about the most bytes that JSON, or JSON Lines, takes as objects; 0 for a small body."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    things = data.count(b",") + data.count(b":") + data.count(b"\n")
    # One non-ASCII character widens its whole text to up to four bytes each; a text with escapes has a draft, too.
    each = 7 if b"\\" in data else 1 if data.isascii() else 5
    return each * len(data) + 72 * things + 112 * data.count(b"[") + 208 * data.count(b"{")


def lines_cost(body: Body) -> int:
    """Return the bytes that JSON Lines takes as objects; 0 for a small body."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    return len(data) + json_cost(data)


def csv_cost(body: Body) -> int:
    """Return the bytes that CSV takes as texts, lists and numbers with all rows in memory; 0 for a small body."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    return 8 * len(data) + 120 * data.count(b",") + 288 * ends_in(data)


def numbers_cost(body: Body) -> int:
    """Return the bytes that CSV takes on its way to an array with one row in memory; 0 for a small body.

    The longest row is unknown before it is read: it may have all the fields.
    """
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    return 8 * len(data) + 88 * data.count(b",") + 16 * ends_in(data)


def records_cost(body: Body) -> int:
    """Return the bytes that a body's records and answers take while answered one by one; 0 for a small body."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    return 8 * len(data) + RECORD * ends_in(data)


def ends_in(data: bytes | bytearray) -> int:
    """Count the line ends."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def text_cost(body: Body) -> int:
    if len(body) < GLANCED:
        return 0
    return 5 * len(body) if isinstance(body, memoryview) or not body.isascii() else 2 * len(body)


def array_size(shape: tuple[int, ...], item_size: int, there: int) -> int:
    """Return the size of an array in bytes. Raises BadRequest where only ``there`` bytes follow, which are too few."""
    size = math.prod(shape) * item_size
    if min(shape, default=0) < 0 or size > there:
        raise BadRequest(f"the body's array has {size} bytes by its head, of which {there} are there")
    return size


def archive_cost(archive: zipfile.ZipFile) -> int:
    """Return the unpacked size of an npz in bytes. Raises BadRequest for a compression that numpy does not write."""
    members = archive.infolist()
    if any(member.compress_type not in PACKED for member in members):
        raise BadRequest("the npz body is packed in another way than numpy packs it")
    return sum(member.file_size for member in members)


def npz_cost(body: Body) -> int:
    """Return the unpacked size of an npz in bytes. Raises BadRequest where the body is no npz."""
    claims.take(entries_cost(body))
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return archive_cost(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as exc:
        raise BadRequest("the body is no npz archive, or a damaged one") from exc


def entries_cost(body: Body) -> int:
    """Return the bytes that an archive's directory takes, by its number of entries."""
    data = bytes(body) if isinstance(body, memoryview) else body
    return ENTRY * data.count(b"PK\x01\x02")


def take_picture(image: Any, body: Body) -> int:
    """Claim the memory for decoding a Pillow image that was opened on ``body``, and return its bytes.

    Raises BadRequest where it has too many pixels, or more than its data can hold; BodyTooLarge and BodiesFull.
    """
    pixels = image.width * image.height
    if not 0 < pixels <= PIXEL_LIMIT:
        raise BadRequest(f"the image has {image.width} x {image.height} pixels; allowed: 1 to {PIXEL_LIMIT} in all")
    cost: int = COPIES * pixels
    claims.take(cost)
    if image.format == "PNG" and not is_whole_png(body):
        raise BadRequest("the image is damaged, or not all of it is there")
    if (image.format == "PNG" and not fills_png(bytes(body))) or (image.format == "GIF" and pixels > CODES * len(body)):
        raise BadRequest(f"the image has {image.width} x {image.height} pixels by its head, which its data do not give")
    return cost


def is_whole_png(body: Body) -> bool:
    """Return whether all chunks of a PNG to its last one are there with their checksums; Pillow ignores most."""
    view, at = memoryview(body), 8
    while at + 12 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        end = at + 8 + length
        if end + 4 > len(view) or zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if kind == b"IEND":
            return True
        at = end + 4
    return False


def fills_png(body: bytes) -> bool:
    """Return whether a PNG's data hold all of its pixels; data so long that they very likely do are not counted.

    Pillow would make the missing ones black.
    """
    size, parts, at = 0, [], 8
    while at + 8 <= len(body):
        length, kind = struct.unpack_from(">I4s", body, at)
        chunk = memoryview(body)[at + 8 : at + 8 + length]
        if kind == b"IHDR" and len(chunk) >= 13:
            size = png_size(chunk)
        elif kind == b"IDAT":
            parts.append(chunk)
        at += 12 + length
    packed = sum(map(len, parts))
    if packed * INFLATION < size:
        return False
    return packed * SUSPICIOUS >= size or inflates_to(parts, size)


def png_size(head: memoryview) -> int:
    """Return the bytes of all rows, with one filter byte each."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", head)
    bits = depth * CHANNELS.get(colour, 1)
    areas = [(width, height)]
    if interlaced:
        areas = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in PASSES]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in areas if columns > 0 and rows > 0)


def inflates_to(parts: list[memoryview], size: int) -> bool:
    """Return whether the parts inflate to at least ``size`` bytes; the output is dropped."""
    inflater = zlib.decompressobj()
    try:
        for part in parts:
            data: Body = part
            while size > 0 and data and not inflater.eof:
                size -= len(inflater.decompress(data, CHUNK))
                data = inflater.unconsumed_tail
    except zlib.error:
        return False
    return size <= 0
