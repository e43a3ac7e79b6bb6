"""The npy format: arrays from a body's bytes, never by pickle.

numpy's own reader says what a header means, once; bodies that begin with the same bytes are then arrays at the same
place of themselves. Reading each header anew takes numpy's parser forty times as long.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal, NamedTuple

from serving.errors import BadRequest
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"\x93NUMPY"
WIDTHS = {1: 2, 2: 4, 3: 4}  # bytes that say how long the rest of the header is, by version
LONGEST = 512  # bytes of a header that is remembered
KNOWN = 1024  # headers that are remembered
NUMBERS = "biufc"  # kinds of dtypes whose bytes are all there is to a value


class Layout(NamedTuple):
    """What a header says. ``end`` is where the last value ends, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]
    start: int
    end: int


_layouts: dict[bytes, Layout] = {}


def read_npy(body: Body) -> np.ndarray:
    """An array that may be written to. That of a bytearray is on its bytes; of others it is a copy. What comes behind
    the array is passed over. Raises BadRequest."""
    import numpy as np

    head = head_of(body)
    layout = _layouts.get(head)
    if layout is None or len(body) < layout.end:
        array = load(body)
        remember(head, array)
        return array
    array = np.ndarray(layout.shape, layout.dtype, body, layout.start, order=layout.order)
    return array if type(body) is bytearray and array.flags.aligned else array.copy(layout.order)


def head_of(body: Body) -> bytes:
    """The bytes before the values, as far as they are there; b"" of what is not npy or has a very long header."""
    if bytes(body[:6]) != MAGIC or len(body) < 12:
        return b""
    width = WIDTHS.get(body[6], 0)
    size = 8 + width + int.from_bytes(body[8 : 8 + width], "little")
    return bytes(body[:size]) if width and size <= LONGEST else b""


def load(body: Body) -> np.ndarray:
    """By numpy. Raises BadRequest."""
    import numpy as np

    try:
        array: np.ndarray = np.load(io.BytesIO(body), allow_pickle=False)
    except Exception as exc:  # numpy's reader raises whatever its header parser meets
        raise BadRequest(f"the body is no npy array: {type(exc).__name__}") from exc
    if not isinstance(array, np.ndarray):
        raise BadRequest("the body is no npy array")
    return array


def remember(head: bytes, array: np.ndarray) -> None:
    """``array`` is what numpy has made of a body that begins with ``head``."""
    if not head or array.dtype.kind not in NUMBERS:
        return
    if len(_layouts) >= KNOWN:
        _layouts.clear()
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    _layouts[head] = Layout(array.shape, array.dtype, order, len(head), len(head) + array.nbytes)
