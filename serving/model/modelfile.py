"""Model files: a model's configuration files, which come with it and are read outside its process."""

from __future__ import annotations

import codecs
import reprlib
from pathlib import Path

from serving.errors import ModelError

LIMIT = 1 << 20  # bytes; enough for files that people write
SHOWN = 200  # characters of a wrong value in a message
VALUES = 100_000  # in one file, each counted as often as the file refers to it

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, SHOWN, SHOWN


def read_small(path: Path) -> bytes:
    """Return the whole file as UTF-8 without the byte order mark that editors and shells of Windows write.

    Raises ModelError for a file larger than ``LIMIT``, and OSError.
    """
    with path.open("rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ModelError(f"{path} has more than {LIMIT} bytes")
    return unmarked(data)


def unmarked(data: bytes) -> bytes:
    """Return text with a Unicode byte order mark as UTF-8 without it; other bytes unchanged.

    Raises UnicodeDecodeError.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16").encode()
    return data.removeprefix(codecs.BOM_UTF8)


def read_text(path: Path) -> str:
    """Return the file's text with LF line ends. Raises what ``read_small`` raises, and UnicodeDecodeError."""
    return read_small(path).decode().replace("\r\n", "\n").replace("\r", "\n")


def shown(value: object) -> str:
    """Return a short form of ``value`` for a message."""
    try:
        text = _short.repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def check_size(path: Path, value: object) -> None:
    """Raise ModelError for a tree of lists and tables far larger than its file.

    By references a few hundred bytes can stand for billions of values, or for a list that contains itself.
    """
    if size_of(value, {}) > VALUES:
        raise ModelError(f"{path} stands for more than {VALUES} values")


def size_of(value: object, known: dict[int, int]) -> int:
    """Count the values of ``value`` written out, up to just above VALUES."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in known:
        known[id(value)] = VALUES + 1  # until it is known: a value that contains itself has no end
        size = 1
        for one in [*value.keys(), *value.values()] if isinstance(value, dict) else list(value):
            size = min(size + size_of(one, known), VALUES + 1)
        known[id(value)] = size
    return known[id(value)]
