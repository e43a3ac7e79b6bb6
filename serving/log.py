"""One line an event on standard output: JSON for machines, text for people.

Everything goes through the standard ``logging`` module, so that libraries' records come out in the same form. Lines are
written to the descriptor in one piece, without a buffer, since a worker may be killed at any instant.
"""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import select
import sys
import time
from typing import Any

import msgspec

PATIENCE = 2.0  # seconds that user code waits for a slow reader of its output
LOOP_PATIENCE = 0.1  # and an event loop
LONGEST = 1 << 16  # characters without a line's end that are kept

logger = logging.getLogger("serving")


class JsonFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self.role,
            "pid": record.process,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:  # half a surrogate pair, which clients can send in JSON
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = " ".join(f"{key}={value}" for key, value in fields_of(record).items())
        line = f"{clock} {record.levelname.lower():7} {self.role:10} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class StdoutHandler(logging.Handler):
    """Waits ``patience`` seconds for a reader of our output that is behind; then lines are dropped until it reads.

    A blocked write would hold up an event loop, and with it the supervisor's kills.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience
        self._poll = select.poll()
        self._poll.register(1, select.POLLOUT)
        self._dropped = 0
        self._is_torn = False

    def emit(self, record: logging.LogRecord) -> None:
        lines = [self.format(record)]
        if self._dropped:
            note = logging.LogRecord("serving", logging.WARNING, "", 0, "log lines were dropped", None, None)
            note.fields = {"lines": self._dropped}
            lines.insert(0, self.format(note))
        text = ("\n" if self._is_torn else "") + "\n".join(lines) + "\n"
        try:
            self._dropped = 0 if self._write(text.encode("utf-8", "backslashreplace")) else self._dropped + 1
        except OSError:
            return  # nobody reads our output any more; serving goes on

    def _write(self, data: bytes) -> bool:
        """False where the reader is too far behind. A piece of PIPE_BUF bytes fits wherever poll says that some do."""
        wait = 0.0 if self._dropped else self._patience
        for start in range(0, len(data), select.PIPE_BUF):
            if not self._poll.poll(wait * 1000):
                self._is_torn = self._is_torn or start > 0
                return False
            piece = data[start : start + select.PIPE_BUF]
            while piece:
                piece = piece[os.write(1, piece) :]
        self._is_torn = False
        return True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return dict(fields) if fields else {}


def setup(role: str, level: str, style: str) -> None:
    """Send all logging of this process to standard output. ``style`` is ``json`` or ``text``."""
    handler = StdoutHandler(PATIENCE if role == "worker" else LOOP_PATIENCE)
    handler.setFormatter(JsonFormatter(role) if style == "json" else TextFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # Not by way of the root, whose handlers user code may exchange for ones that print, which is logged, and so on.
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
    logging.captureWarnings(True)


def emit(level: int, message: str, *, exc: BaseException | None = None, **fields: Any) -> None:
    """Log one event with its fields; ``exc`` adds its traceback to the line."""
    if logger.isEnabledFor(level):
        known = {key: value for key, value in fields.items() if value is not None}
        logger.log(level, message, exc_info=exc, extra={"fields": known})


def debug(message: str, **fields: Any) -> None:
    emit(logging.DEBUG, message, **fields)


def info(message: str, **fields: Any) -> None:
    emit(logging.INFO, message, **fields)


def warning(message: str, **fields: Any) -> None:
    emit(logging.WARNING, message, **fields)


def error(message: str, *, exc: BaseException | None = None, **fields: Any) -> None:
    emit(logging.ERROR, message, exc=exc, **fields)


class LineLogger(io.TextIOBase):
    """Stands in for ``sys.stdout`` and ``sys.stderr`` of a model worker: each printed line becomes one log line."""

    def __init__(self, stream: str, **fields: Any) -> None:
        self._fields = {"stream": stream, **fields}
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > LONGEST:  # a progress bar, which never ends its line
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            if line:
                info(line, **self._fields)
        return len(text)

    def fileno(self) -> int:
        return 1


def capture_prints(**fields: Any) -> None:
    """Turn what user code prints into log lines."""
    sys.stdout = LineLogger("stdout", **fields)
    sys.stderr = LineLogger("stderr", **fields)
