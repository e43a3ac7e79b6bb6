"""Exact: JSON's and CSV's numbers become floats of 32 bits, but an integer never becomes another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from serving.errors import BadRequest
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

LONG = 2.0**63  # the first integer beyond 64 bits
SURE = 2.0**24  # up to here floats of 32 bits hold all integers,
SURE_64 = 2.0**53  # and up to here those of 64
FEW = 16  # letters that are looked at one by one


def float32(array: np.ndarray) -> np.ndarray:
    """Convert to float32. Raises BadRequest for a number out of range."""
    import numpy as np

    with np.errstate(over="raise"):
        try:
            return array.astype(np.float32)
        except FloatingPointError as exc:
            worst = max(array[np.isfinite(array)].ravel().tolist(), key=abs)
            raise BadRequest(f"{worst!r} is beyond the numbers of 32 bits that the body becomes") from exc


def narrowed(array: np.ndarray, values: Any) -> np.ndarray:
    """Convert float64 to float32 if that holds all integers, else return the same array.

    ``values`` are the numbers, or nested lists of them, that the array was made of. Raises BadRequest for an integer
    that float64 does not hold, and for a number beyond float32.
    """
    found = float32(array)
    places = doubtful(array, found)
    if not places:
        return found
    leaves = leaves_of(values, array.ndim)
    return chosen(array, found, ((place, leaves[place]) for place in places if type(leaves[place]) is int))


def doubtful(array: np.ndarray, found: np.ndarray) -> list[int]:
    """Return the places in ``array``, flat, of integers that ``found``, the same as float32, may not hold."""
    import numpy as np

    flat = array.ravel()
    if np.fmax.reduce(flat, initial=0) < SURE and np.fmin.reduce(flat, initial=0) > -SURE:  # passes over NaN
        return []
    size = np.abs(array)
    changed = (size >= SURE_64) | ((size >= SURE) & (array != found) & (np.floor(array) == array))
    return np.flatnonzero(changed & np.isfinite(array)).tolist()


def leaves_of(values: Any, depth: int) -> Sequence[Any]:
    if not depth:
        return [values]
    for _ in range(depth - 1):
        values = [one for inner in values for one in inner]
    return values  # type: ignore[no-any-return]


def chosen(array: np.ndarray, found: np.ndarray, integers: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return ``found`` if it holds all of the ``integers`` at their places, else ``array``. Raises BadRequest."""
    pairs = list(integers)
    places, wanted = [place for place, _ in pairs], [integer for _, integer in pairs]
    if not pairs:
        return found
    wide: list[float] = array.ravel()[places].tolist()
    if wide != wanted:  # Python compares integers and floats exactly
        lost = next(integer for one, integer in zip(wide, wanted, strict=True) if one != integer)
        raise BadRequest(f"{lost} is an integer that no float holds, and others of its array are none: send it as text")
    return found if found.ravel()[places].tolist() == wanted else array


def may_have_booleans(text: Body | None) -> bool:
    """Return whether JSON may hold ``true`` or ``false``: it has such words, or two or four bytes a letter.

    Single letters that numbers lack are looked for first, which takes a tenth of the time.
    """
    if text is None:
        return True
    data = bytes(text) if isinstance(text, memoryview) else text
    has_words = (b"u" in data and has_word(data, b"true", 2)) or (b"l" in data and has_word(data, b"false", 2))
    return has_words or 0 in data[:4]


def has_word(data: bytes | bytearray, word: bytes, at: int) -> bool:
    """Return whether ``data`` has a ``word``, by its letter ``at`` that is rare."""
    letter, found = word[at : at + 1], -1
    for _ in range(FEW):
        found = data.find(letter, found + 1)
        if found < 0 or data.startswith(word, max(found - at, 0)):
            return found >= 0
    return word in data


def has_boolean(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(has_boolean, value))
    return isinstance(value, bool)


def has_long(value: Any) -> bool:
    """Return whether a number is an integer beyond 64 bits, which no array type holds."""
    if isinstance(value, list):
        return any(map(has_long, value))
    return isinstance(value, int) and not -LONG <= value < LONG
