"""Log: one line per event on standard output, JSON for machines or text for people.

The server's own events come from a logger outside the registry, so that nothing that user code does to ``logging``
changes or loses them. Records of libraries are written in the same form. Each line is written to the descriptor in one
piece, unbuffered, since a worker may be killed at any instant.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import select
import time
from typing import Any

import msgspec

PATIENCE = 0.1  # seconds that an event loop waits for a slow reader of our output
STDOUT = 1  # descriptor
# Fixed here, since user code can rename levels.
LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}


class Private(logging.Logger):
    """A logger outside the registry, where ``logging.config`` and ``logging.disable`` cannot silence it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.parent = logging.root

    def isEnabledFor(self, level: int) -> bool:
        return level >= self.getEffectiveLevel()


logger = Private("serving")


class JsonFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": level_of(record),
            "role": self.role,
            "pid": record.process,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:  # a lone surrogate, which clients can send in JSON
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = " ".join(f"{key}={value}" for key, value in fields_of(record).items())
        line = f"{clock} {level_of(record):7} {self.role:10} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class StdoutHandler(logging.Handler):
    """Writes lines to ``fd``. Waits ``patience`` seconds for a reader that is behind; then lines are dropped until it
    reads.

    A blocked write would hold up an event loop, and with it the supervisor's kills.
    """

    def __init__(self, patience: float, fd: int = STDOUT) -> None:
        super().__init__()
        self._patience = patience
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._dropped = 0
        self._is_torn = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            lines = [self.format(record)]
        except Exception:
            self.handleError(record)  # as in every handler: a bad log call must not fail its caller
            return
        if self._dropped:
            note = logging.LogRecord("serving", logging.WARNING, "", 0, "log lines were dropped", None, None)
            note.fields = {"lines": self._dropped}
            lines.insert(0, self.format(note))
        text = ("\n" if self._is_torn else "") + "\n".join(lines) + "\n"
        try:
            self._dropped = 0 if self._write(text.encode("utf-8", "backslashreplace")) else self._dropped + 1
        except OSError:
            return  # nobody reads our output any more; serving goes on

    def is_behind(self) -> bool:
        """Return whether a line would have to wait for the reader now."""
        return not self._poll.poll(0)

    def _write(self, data: bytes) -> bool:
        """Write ``data``; returns False where the reader is too far behind. When poll reports room, PIPE_BUF
        bytes fit.
        """
        wait = 0.0 if self._dropped else self._patience
        for start in range(0, len(data), select.PIPE_BUF):
            if not self._poll.poll(wait * 1000):
                self._is_torn = self._is_torn or start > 0
                return False
            piece = data[start : start + select.PIPE_BUF]
            while piece:
                piece = piece[os.write(self._fd, piece) :]
        self._is_torn = False
        return True


def level_of(record: logging.LogRecord) -> str:
    return LEVELS.get(record.levelno) or record.levelname.lower()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return dict(fields) if fields else {}


def setup(role: str, level: str, style: str) -> None:
    """Send all logging of this process to standard output. ``style`` is ``json`` or ``text``."""
    root = logging.getLogger()
    root.handlers[:] = [write_with(StdoutHandler(PATIENCE), role, level, style)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def write_with(handler: StdoutHandler, role: str, level: str, style: str) -> StdoutHandler:
    """Write the server's own events of ``level`` and above with ``handler``, which is returned."""
    handler.setFormatter(JsonFormatter(role) if style == "json" else TextFormatter(role))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
    return handler


def emit(level: int, message: str, *, exc: BaseException | None = None, **fields: Any) -> None:
    """Log one event with its fields; ``exc`` adds its traceback to the line."""
    if logger.isEnabledFor(level):
        write(level, message, exc, fields)


def write(level: int, message: str, exc: BaseException | None, fields: dict[str, Any]) -> None:
    """Log one event whatever the level. The record is built directly, since user code can replace logging's record
    factory.
    """
    told = None if exc is None else (type(exc), exc, exc.__traceback__)
    record = logging.LogRecord(logger.name, level, "", 0, message, None, told)
    record.fields = {key: value for key, value in fields.items() if value is not None}
    logger.handle(record)


def printed(text: str, **fields: Any) -> None:
    """Log a line that user code has printed, whatever the level."""
    write(logging.INFO, text, None, fields)


def debug(message: str, **fields: Any) -> None:
    emit(logging.DEBUG, message, **fields)


def info(message: str, **fields: Any) -> None:
    emit(logging.INFO, message, **fields)


def warning(message: str, **fields: Any) -> None:
    emit(logging.WARNING, message, **fields)


def error(message: str, *, exc: BaseException | None = None, **fields: Any) -> None:
    emit(logging.ERROR, message, exc=exc, **fields)


def is_behind() -> bool:
    """Return whether the next line would have to wait for a reader."""
    return any(isinstance(one, StdoutHandler) and one.is_behind() for one in logger.handlers)
