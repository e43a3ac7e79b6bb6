"""The files of a model that say how it is served, which come with it and are read before it has a process."""

from __future__ import annotations

import codecs
import reprlib
from pathlib import Path

from serving.errors import ModelError

LIMIT = 1 << 20  # bytes; people write them
SHOWN = 200  # characters of a wrong value that a message repeats
VALUES = 100_000  # that a file may hold, each counted as often as the file refers to it

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, SHOWN, SHOWN


def read_small(path: Path) -> bytes:
    """The whole file, text in UTF-8 without a mark of byte order, which editors and shells of Windows write. Raises
    ModelError for one that nobody would write, OSError."""
    with path.open("rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ModelError(f"{path} has more than {LIMIT} bytes")
    return unmarked(data)


def unmarked(data: bytes) -> bytes:
    """Text in UTF-8, where a mark says in which Unicode it is; else as it is. Raises UnicodeDecodeError."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16").encode()
    return data.removeprefix(codecs.BOM_UTF8)


def read_text(path: Path) -> str:
    """As ``read_small``, for text. Raises UnicodeDecodeError, too."""
    return read_small(path).decode().replace("\r\n", "\n").replace("\r", "\n")


def shown(value: object) -> str:
    """``value`` for a message: some of it, however much there is."""
    try:
        text = _short.repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def check_size(path: Path, value: object) -> None:
    """Raises ModelError for a tree of lists and tables that is far larger than the file that it was read from: by
    references a few hundred bytes stand for billions of values, or for a list that holds itself."""
    if size_of(value, {}) > VALUES:
        raise ModelError(f"{path} stands for more than {VALUES} values")


def size_of(value: object, known: dict[int, int]) -> int:
    """How many values ``value`` would be if it were written out, up to some more than VALUES."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in known:
        known[id(value)] = VALUES + 1  # until it is known: what holds itself has no end
        size = 1
        for one in [*value.keys(), *value.values()] if isinstance(value, dict) else list(value):
            size = min(size + size_of(one, known), VALUES + 1)
        known[id(value)] = size
    return known[id(value)]
