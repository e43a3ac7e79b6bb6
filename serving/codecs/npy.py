"""npy: arrays from a body's bytes, never by pickle.

numpy's own reader parses a header once; later bodies with the same header become arrays at the same offset. Parsing
each header anew takes numpy forty times as long.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Literal, NamedTuple

from serving import claims
from serving.codecs.hollow import check_hollow
from serving.codecs.letters import check_letters
from serving.codecs.measuring import CHUNK, GLANCED, array_size
from serving.errors import BadRequest, ServingError
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"\x93NUMPY"
VERSIONS = ((1, 0), (2, 0), (3, 0))
WIDTHS = {1: 2, 2: 4, 3: 4}  # bytes of the header's length field, by version
LONGEST = 512  # bytes; longer headers are not cached
KNOWN = 1024  # cached headers
OLD_INTEGER = re.compile(rb"(?<=[0-9])L\b")  # as Python 2 writes them
NUMBERS = "biufc"  # kinds of dtypes whose values are plain bytes


class Layout(NamedTuple):
    """A parsed header. ``start`` and ``end`` are the byte offsets of the values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]
    start: int
    end: int


_layouts: dict[bytes, Layout] = {}


def read_npy(body: Body) -> np.ndarray:
    """Return a writable array in the machine's byte order.

    That of a bytearray shares its memory; others, and those with swapped bytes, are copies. Raises BadRequest, also for
    bytes behind the array; BodyTooLarge and BodiesFull.
    """
    import numpy as np

    head = head_of(body)
    layout = _layouts.get(head)
    if layout is None or len(body) < layout.end:
        array = load(body)
        remember(head, array)
        return native(array)
    check_end(len(body) - layout.end)
    array = np.ndarray(layout.shape, layout.dtype, body, layout.start, order=layout.order)
    if not layout.dtype.isnative:
        return native(array)
    if type(body) is bytearray and array.flags.aligned:
        return array
    if array.nbytes >= GLANCED:
        claims.take(array.nbytes)
    return array.copy(layout.order)


def check_end(behind: int) -> None:
    """Raise BadRequest where bytes follow the array: they were sent for a purpose and would be ignored."""
    if behind:
        raise BadRequest(f"{behind} bytes come behind the array of the npy body")


def native(array: np.ndarray) -> np.ndarray:
    """Return the same values in the machine's byte order, which torch needs. Raises BodyTooLarge and BodiesFull."""
    if array.dtype.isnative:
        return array
    if array.nbytes >= GLANCED:
        claims.take(array.nbytes)
    return array.astype(array.dtype.newbyteorder("="), order="K")


def head_of(body: Body) -> bytes:
    """Return the bytes before the values, as far as present; b"" if not npy or very long."""
    if bytes(body[:6]) != MAGIC or len(body) < 12:
        return b""
    width = WIDTHS.get(body[6], 0)
    size = 8 + width + int.from_bytes(body[8 : 8 + width], "little")
    return bytes(body[:size]) if width and size <= LONGEST else b""


def load(body: Body) -> np.ndarray:
    """Read the array with numpy's own parser. Raises BadRequest, BodyTooLarge and BodiesFull."""
    try:
        file = io.BytesIO(body)
        size, read = open_npy(file, len(body))
        claims.take(size)
        return read()
    except ServingError:
        raise
    except Exception as exc:  # numpy's header parser raises errors of many types
        raise BadRequest("the body is no npy array, or its head is damaged") from exc


def is_npy(file: IO[bytes]) -> bool:
    """Return whether a file, positioned at its beginning, is npy."""
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def open_npy(file: IO[bytes], there: int) -> tuple[int, Callable[[], np.ndarray]]:
    """Return the size of an npy file's array in bytes, and a function that reads it; the file has ``there`` bytes.

    Raises BadRequest where it has fewer or more than its array needs, and whatever numpy's parser raises.
    """
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version not in VERSIONS:
        raise BadRequest("the body is no npy array: its version is unknown")
    head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = head(file)
    check_keys(file, WIDTHS[version[0]])
    if dtype.hasobject:
        raise BadRequest("the body is no npy array: it holds pickled objects")
    there -= file.tell()
    size = array_size(shape, dtype.itemsize, there)
    check_hollow(shape, dtype)
    check_end(there - size)

    def read() -> np.ndarray:
        if version > (2, 0) or not size or dtype.subdtype is not None:
            file.seek(0)
            found = np.lib.format.read_array(file, allow_pickle=False)
            check_letters(found)
            return found
        array = np.ndarray(shape[::-1] if fortran else shape, dtype)
        fill(file, array.reshape(-1).view(np.uint8).data)
        check_letters(array)
        return array.transpose() if fortran else array

    return size, read


def check_keys(file: IO[bytes], width: int) -> None:
    """Raise BadRequest for a header, which ends where the file stands, that has a key twice.

    The header's length has ``width`` bytes.
    """
    end = file.tell()
    file.seek(8 + width)
    text = OLD_INTEGER.sub(b"", file.read(end - 8 - width)).strip()
    made = ast.parse(text.decode("latin-1" if width == 2 else "utf-8"), mode="eval").body
    keys = [key.value for key in made.keys if isinstance(key, ast.Constant)] if isinstance(made, ast.Dict) else []
    if len(set(keys)) < len(keys):
        raise BadRequest(f"the head of the npy body has the key {max(keys, key=keys.count)!r} twice")


def fill(file: IO[bytes], room: memoryview) -> None:
    """Read into ``room`` in parts, since an archive's reader copies each. Raises BadRequest at the end of the file."""
    while room:
        part = file.read(min(len(room), CHUNK))
        if not part:
            raise BadRequest("the body's array ends early")
        room[: len(part)] = part
        room = room[len(part) :]


def remember(head: bytes, array: np.ndarray) -> None:
    """Cache the layout of ``array``, which numpy has read from a body that begins with ``head``.

    That of an empty array is not: its head says how much memory is claimed.
    """
    if not head or array.dtype.kind not in NUMBERS or not array.nbytes:
        return
    if len(_layouts) >= KNOWN:
        _layouts.clear()
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    _layouts[head] = Layout(array.shape, array.dtype, order, len(head), len(head) + array.nbytes)
