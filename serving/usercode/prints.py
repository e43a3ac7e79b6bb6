r"""Prints: what user code writes to ``sys.stdout`` and ``sys.stderr``, as lines of the log.

A line is logged when it ends. An unfinished line is logged when it is flushed or a second old, but at most once a
second, since dots and progress bars come often. A progress bar, which returns to the start of its line with ``\r``, is
logged in its latest state. The unfinished text is also in a file, for a reader after the process has died.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import threading
import time
from collections.abc import Callable

from serving.config.words import STREAMS, Words, latest
from serving.system import log

LONGEST = 1 << 16  # most characters of an unfinished line
INTERVAL = 1.0  # seconds between two writes of unfinished lines


class Printed(io.BufferedIOBase):
    """The ``buffer`` of a stream: bytes in, lines out to ``write_line``.

    ``fd`` is its descriptor; ``clock`` is in seconds.
    """

    def __init__(
        self, fd: int, write_line: Callable[[str], None], words: Words, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = f"<{STREAMS[fd - 1]}>"
        self.mode = "wb"
        self.raw = self
        self.last = ""
        self._fd = fd
        self._write_line = write_line
        self._words = words
        self._clock = clock
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._lock = threading.RLock()  # a signal handler may print too
        self._rest = ""
        self._is_bar = False
        self._is_alone = False  # in a child, where nothing calls ``write_old``
        self._since = 0.0  # the time at which the rest began
        self._written = -INTERVAL  # the time of the last write of an unfinished line

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        with self._lock:
            if self.closed:
                raise ValueError("I/O operation on closed file")
            *lines, rest = self._decoder.decode(bytes(data)).split("\n")
            for line in lines:
                self._end(self._rest + line)
            if rest:
                self._hold(self._rest + rest)
        return memoryview(data).nbytes

    def flush(self) -> None:
        super().flush()
        with self._lock:
            if self._may_write() or (self._is_alone and not self._is_bar):
                self._write_rest()

    def write_old(self) -> None:
        """Write text that has been held too long; never blocks."""
        if self._rest and self._lock.acquire(blocking=False):
            try:
                if self._may_write() and self._clock() >= self._since + INTERVAL:
                    self._write_rest()
            finally:
                self._lock.release()

    def write_all(self) -> None:
        with self._lock:
            self._write_rest()

    def in_child(self) -> None:
        """Drop the held text, which the parent will write."""
        self._lock = threading.RLock()
        self._words = Words(None, 0)
        self._rest, self._is_alone = "", True

    def _may_write(self) -> bool:
        return self._clock() >= self._written + INTERVAL

    def _end(self, line: str) -> None:
        self._keep("")
        self._is_bar = False
        self._write(latest(line))

    def _hold(self, rest: str) -> None:
        if len(rest) > LONGEST:
            self._end(rest)
            return
        old, back, new = rest.rpartition("\r")
        if back:
            self._is_bar = True
            if new and latest(old) and self._may_write():
                self._written = self._clock()
                self._write(latest(old))
            rest = new or latest(old) + back
        if not self._rest:
            self._since = self._clock()
        self._keep(rest)

    def _write_rest(self) -> None:
        if self._rest:
            text = latest(self._rest)
            self._keep("")
            self._written = self._clock()
            self._write(text)

    def _keep(self, rest: str) -> None:
        if self._rest or rest:
            self._rest = rest
            self._words.put(rest)

    def _write(self, text: str) -> None:
        if text:
            self.last = text
            self._write_line(text)


class Prints:
    """Both streams, in place of the process's own. ``words`` has a place for each; lines get ``fields``."""

    def __init__(self, words: list[Words], **fields: object) -> None:
        self._streams = [self._replace(index, words[index], fields) for index in range(len(STREAMS))]
        os.register_at_fork(after_in_child=self._in_child)

    def _replace(self, index: int, words: Words, fields: dict[str, object]) -> Printed:
        name = STREAMS[index]
        buffer = Printed(index + 1, lambda line: log.printed(line, stream=name, **fields), words)
        text = io.TextIOWrapper(
            buffer,
            encoding="utf-8",
            errors="backslashreplace",  # printing a client's text must not fail
            line_buffering=name == "stderr",
            write_through=True,
        )
        text.mode = "w"  # type: ignore[misc]
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
        return buffer

    def write_old(self) -> None:
        if not log.is_behind():
            for one in self._streams:
                one.write_old()

    def write_all(self) -> None:
        for one in self._streams:
            one.write_all()

    def last_error(self) -> str:
        """Return the last line on the error stream, "" if there was none."""
        return self._streams[1].last

    def _in_child(self) -> None:
        for one in self._streams:
            one.in_child()
