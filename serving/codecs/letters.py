"""Letters: the code points of text arrays, of which numpy checks none before it makes a Python text of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np

LAST = 0x10FFFF
HALVES = (0xD800, 0xDFFF)  # halves of surrogate pairs, which are no characters
WIDTH = 4  # bytes of one


def check_letters(array: np.ndarray) -> None:
    """Raise BadRequest for a text with a code point that is no character, also within records."""
    if has_text(array.dtype) and array.nbytes:
        check_codes(array.view(codes(array.dtype)))


def has_text(dtype: np.dtype) -> bool:
    if dtype.subdtype is not None:
        return has_text(dtype.subdtype[0])
    return dtype.kind == "U" or (dtype.kind == "V" and any(has_text(dtype[name]) for name in dtype.names or ()))


def codes(dtype: np.dtype) -> np.dtype:
    """Return a dtype of the same bytes with code points instead of texts."""
    import numpy as np

    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((codes(base), shape))
    if dtype.names:
        offsets = [dtype.fields[name][1] for name in dtype.names] if dtype.fields else []
        formats = [codes(dtype[name]) for name in dtype.names]
        return np.dtype({"names": dtype.names, "formats": formats, "offsets": offsets, "itemsize": dtype.itemsize})
    if dtype.kind != "U" or not dtype.itemsize:
        return dtype
    return np.dtype((np.dtype(np.uint32).newbyteorder(dtype.byteorder), (dtype.itemsize // WIDTH,)))


def check_codes(array: np.ndarray) -> None:
    if array.dtype.names:
        for name in array.dtype.names:
            check_codes(array[name])
        return
    if array.dtype.kind != "u" or array.dtype.itemsize != WIDTH or not array.size:
        return
    low, high = HALVES
    if (most := int(array.max())) < low:
        return
    if most > LAST or ((array >= low) & (array <= high)).any():
        raise BadRequest("the body's array has a text with a code point that is no character")
