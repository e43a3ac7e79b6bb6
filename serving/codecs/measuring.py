"""Measuring: how much memory a body will take once it is decoded, told from its head, or from a glance over it."""

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

GLANCED = 16 * 1024  # bytes of a text from which on it is measured
COPIES = 16  # bytes of a pixel while a picture is turned upright and becomes an array: as it was, upright, RGB, bytes
ENTRY = 1024  # bytes that an entry of an archive takes beside what is in it
INFLATION = 1032  # bytes that one byte of deflate gives at most
SUSPICIOUS = 8  # bytes out of one of a PNG's data from which on these are counted first
CODES = 2731  # pixels that one byte of a GIF gives at most: 4096 of a code of 12 bits
PIXEL_LIMIT = 100_000_000  # an image with more is refused before it is decoded
PIECE = 1 << 20
RECORD = 288  # bytes that a record takes beside what is in it, and its answer
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7


def json_cost(body: Body) -> int:
    """Bytes of the objects that JSON, or lines of it, becomes at most, about; 0 for a small one."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    things = data.count(b",") + data.count(b":") + data.count(b"\n")
    # A character beyond ASCII makes up to four bytes of each beside it; of a text with escapes there is a draft, too.
    each = 7 if b"\\" in data else 1 if data.isascii() else 5
    return each * len(data) + 72 * things + 112 * data.count(b"[") + 208 * data.count(b"{")


def lines_cost(body: Body) -> int:
    """Bytes of the objects that lines of JSON become; 0 for few of them."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    # Lines that end as those of old Macs are all cut before the first one is read.
    return len(data) + json_cost(data) + 144 * (data.count(b"\r") - data.count(b"\r\n"))


def csv_cost(body: Body) -> int:
    """Bytes of the texts, lists and numbers that CSV becomes where all rows are there at a time; 0 for a small one."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    return 8 * len(data) + 120 * data.count(b",") + 288 * ends_in(data)


def numbers_cost(body: Body) -> int:
    """Bytes that CSV takes on its way to an array where one row is there at a time; 0 for a small one.

    How long the longest row is nobody knows before it is read: all of the fields may be in one.
    """
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    return 8 * len(data) + 88 * data.count(b",") + 16 * ends_in(data)


def records_cost(body: Body) -> int:
    """Bytes that the records of a body take while they are answered, one by one, and their answers; 0 for few."""
    if len(body) < GLANCED:
        return 0
    data = bytes(body) if isinstance(body, memoryview) else body
    return 8 * len(data) + RECORD * ends_in(data)


def ends_in(data: bytes | bytearray) -> int:
    """How often a line ends."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def text_cost(body: Body) -> int:
    if len(body) < GLANCED:
        return 0
    return 5 * len(body) if isinstance(body, memoryview) or not body.isascii() else 2 * len(body)


def array_size(shape: tuple[int, ...], item_size: int, there: int) -> int:
    """Bytes of an array of which ``there`` bytes follow. Raises BadRequest where these are too few."""
    size = math.prod(shape) * item_size
    if min(shape, default=0) < 0 or size > there:
        raise BadRequest(f"the body's array has {size} bytes by its head, of which {there} are there")
    return size


def archive_cost(archive: zipfile.ZipFile) -> int:
    """Bytes that an npz unpacks to. Raises BadRequest for what numpy does not write."""
    members = archive.infolist()
    if any(member.compress_type not in PACKED for member in members):
        raise BadRequest("the npz body is packed in another way than numpy packs it")
    return sum(member.file_size for member in members)


def npz_cost(body: Body) -> int:
    """Bytes that an npz takes once it is unpacked. Raises BadRequest where it is none."""
    claims.take(entries_cost(body))
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return archive_cost(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as exc:
        raise BadRequest("the body is no npz archive, or a damaged one") from exc


def entries_cost(body: Body) -> int:
    """Bytes that the directory of an archive takes, by the number of its entries."""
    data = bytes(body) if isinstance(body, memoryview) else body
    return ENTRY * data.count(b"PK\x01\x02")


def take_picture(image: Any, body: Body) -> int:
    """Take the memory that decoding a Pillow image takes, which was opened on ``body``, and give how much that is.

    Raises BadRequest where it has too many pixels, or more than its data can give; BodyTooLarge and BodiesFull.
    """
    pixels = image.width * image.height
    if not 0 < pixels <= PIXEL_LIMIT:
        raise BadRequest(f"the image has {image.width} x {image.height} pixels; allowed: 1 to {PIXEL_LIMIT} in all")
    cost: int = COPIES * pixels
    claims.take(cost)
    if (image.format == "PNG" and not fills_png(bytes(body))) or (image.format == "GIF" and pixels > CODES * len(body)):
        raise BadRequest(f"the image has {image.width} x {image.height} pixels by its head, which its data do not give")
    return cost


def fills_png(body: bytes) -> bool:
    """Whether the data of a PNG give all of its pixels; those that are so much that they are likely to are not counted.

    Pillow takes the rest for black.
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
    """Bytes of all rows, each with that of its filter."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", head)
    bits = depth * CHANNELS.get(colour, 1)
    areas = [(width, height)]
    if interlaced:
        areas = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in PASSES]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in areas if columns > 0 and rows > 0)


def inflates_to(parts: list[memoryview], size: int) -> bool:
    """Whether zlib makes at least ``size`` bytes of the parts; what it makes is dropped."""
    inflater = zlib.decompressobj()
    try:
        for part in parts:
            data: Body = part
            while size > 0 and data and not inflater.eof:
                size -= len(inflater.decompress(data, PIECE))
                data = inflater.unconsumed_tail
    except zlib.error:
        return False
    return size <= 0
