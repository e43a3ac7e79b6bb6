"""``tensor/ndlist``: lists of arrays in the format of DJL's clients.

A count, then for each array ``NDAR``, the version, an optional name, how it is stored, its type, its shape with a
letter for each axis, its byte order and the bytes. Numbers are big-endian; a text follows its length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import codecs
from serving.codecs.hollow import check_hollow
from serving.errors import BadRequest, HandlerError

Array = NDArray[Any]
MAGIC, VERSION, DENSE = "NDAR", 3, "default"
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
TYPES = {name.upper(): np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "bool", *INTEGERS)}
TYPES["BOOLEAN"] = TYPES["BOOL"]  # as DJL's clients in Java call it
ZIP = b"PK"


class Reader:
    """A reader of the format. Raises BadRequest where bytes are missing."""

    def __init__(self, data: Any) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self._data) - self._at:
            raise BadRequest(f"tensor/ndlist: {size} bytes are announced, {len(self._data) - self._at} are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, form: str) -> int:
        [value] = struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))
        return int(value)

    def text(self) -> str:
        return bytes(self.take(self.number("h"))).decode("utf-8", "replace")


def read(data: Any) -> list[Array]:
    """Read a list of arrays. As in DJL, npz files count as lists too. Raises BadRequest."""
    if bytes(data[:2]) == ZIP:
        return list(codecs.decode_npz(data, {}).values())
    reader = Reader(data)
    return [read_array(reader) for _ in range(reader.number("i"))]


def read_array(reader: Reader) -> Array:
    found = (reader.text(), reader.number("i"))
    if found != (MAGIC, VERSION):
        raise BadRequest(f"tensor/ndlist: an array begins with {found}; allowed: {(MAGIC, VERSION)}")
    if reader.number("B"):
        reader.text()  # its name, which scripts never see
    stored, datatype = reader.text(), reader.text()
    if stored != DENSE or datatype not in TYPES:
        raise BadRequest(
            f"tensor/ndlist: an array is {stored!r} of {datatype!r}; allowed: {DENSE} of {', '.join(TYPES)}"
        )
    shape = [reader.number("q") for _ in range(reader.number("i"))]
    reader.take(2 * reader.number("i"))  # a letter for each axis
    order = chr(reader.number("B"))
    dtype = TYPES[datatype].newbyteorder(">" if order == ">" else "<")
    data = reader.take(reader.number("i"))
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise BadRequest(f"tensor/ndlist: an array of {datatype} with shape {shape} has {len(data)} bytes")
    check_hollow(tuple(shape), dtype)
    try:
        return np.frombuffer(data, dtype).reshape(shape).astype(TYPES[datatype])
    except ValueError as exc:  # too many axes
        raise BadRequest(f"tensor/ndlist: {exc}") from exc


def write(arrays: Array | Sequence[Array]) -> bytes:
    """Encode arrays as a list. Raises HandlerError for a dtype that the format lacks."""
    given = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
    return struct.pack(">i", len(given)) + b"".join(map(written, given))


def written(value: Array) -> bytes:
    array = np.asarray(value)
    name = array.dtype.name.upper()
    if name not in TYPES:
        raise HandlerError(f"an array of {array.dtype} cannot be sent as tensor/ndlist; allowed: {', '.join(TYPES)}")
    data, axes = array.astype(array.dtype.newbyteorder("<")).tobytes(), array.ndim
    head = [text(MAGIC), struct.pack(">iB", VERSION, 0), text(DENSE), text(name)]
    shape = struct.pack(f">i{axes}qi", axes, *array.shape, axes) + ("?" * axes).encode("utf-16-be")
    return b"".join([*head, shape, b"<", struct.pack(">i", len(data)), data])


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()
