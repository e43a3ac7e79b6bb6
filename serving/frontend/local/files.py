"""Files: the folders of asynchronous invocations on a desk, one for their inputs and one for their outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from starlette.types import Message

from serving.errors import BadRequest

INPUT_LIMIT = 1 << 30  # bytes of an input file
MESSAGE = 1 << 16  # bytes of the input in one message
SCHEME = "file://"


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files below ``folder``. A link that leads out of it is not followed."""

    folder: str | None

    def find(self, location: str) -> Path:
        """Return the file at a ``file://`` URL. Raises BadRequest, in the same words for a missing file and a forbidden
        one, so that nobody learns which files exist elsewhere.
        """
        if self.folder is None:
            raise BadRequest("InputLocation is read only by a server that SERVING_LOCAL_INPUT gives a folder for it")
        try:
            root = Path(self.folder).resolve(strict=True)
            path = Path(os.fsdecode(unquote_to_bytes(location.removeprefix(SCHEME)))).resolve(strict=True)
            size = path.stat().st_size if path.is_file() and path.is_relative_to(root) else -1
        except (OSError, ValueError, RuntimeError):
            size = -1  # missing, unreadable, not a path, or a link to itself
        if size < 0:
            raise BadRequest(f"InputLocation is {location[:80]!r}; allowed: a file below SERVING_LOCAL_INPUT")
        if size > INPUT_LIMIT:
            raise BadRequest(f"InputLocation is a file of {size} bytes; at most {INPUT_LIMIT} are taken")
        return path

    def open(self, source: str | bytes) -> Upload:
        """Return the body, which is given or is in the file at a URL. Raises BadRequest and OSError."""
        if isinstance(source, bytes):
            return Upload(io.BytesIO(source), len(source))
        file = self.find(source).open("rb")
        return Upload(file, os.fstat(file.fileno()).st_size)


class Upload:
    """A request's body as an ASGI application receives it; after it ``http.disconnect``, once the upload is closed.

    A file that grows is read to its size at opening; one that shrinks counts as a client that left.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._ended = False
        self._closed = asyncio.Event()
        self.size = size

    async def receive(self) -> Message:
        if not self._ended and not self._closed.is_set():
            wanted = min(self._left, MESSAGE)
            data = await asyncio.to_thread(self._read, wanted)
            self._left -= len(data)
            self._ended = self._left == 0
            if len(data) == wanted:
                return {"type": "http.request", "body": data, "more_body": not self._ended}
            self._closed.set()
        await self._closed.wait()
        return {"type": "http.disconnect"}

    def _read(self, wanted: int) -> bytes:
        try:
            return self._file.read(wanted)
        except (OSError, ValueError):
            return b""  # the disk failed, or the file was closed meanwhile

    def close(self) -> None:
        self._closed.set()
        self._file.close()


def write(path: Path, data: bytes | bytearray) -> None:
    """Write a file at once: a reader of ``path`` finds all of it or nothing. Raises OSError."""
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)  # for its owner alone
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
