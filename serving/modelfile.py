"""The files of a model that say how it is served, which come with it and are read before it has a process."""

from __future__ import annotations

from pathlib import Path

from serving.errors import ModelError

LIMIT = 1 << 20  # bytes; people write them


def read_small(path: Path) -> bytes:
    """The whole file. Raises ModelError for one that nobody would write, OSError."""
    with path.open("rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ModelError(f"{path} has more than {LIMIT} bytes")
    return data


def read_text(path: Path) -> str:
    """As ``read_small``, for text. Raises UnicodeDecodeError, too."""
    return read_small(path).decode().replace("\r\n", "\n").replace("\r", "\n")
