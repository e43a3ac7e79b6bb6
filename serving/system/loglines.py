"""Log lines: a record as a line of JSON for machines, or as text for people."""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

# Fixed here, since user code can rename levels.
LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
# Widths of the columns of text, in characters.
LEVEL, PROCESS, MESSAGE = 8, 17, 48
INDENT = "    "

DIM, CYAN, RED, RESET = "\x1b[2m", "\x1b[36m", "\x1b[31m", "\x1b[0m"
COLORS = {"debug": DIM, "info": "\x1b[32m", "warning": "\x1b[33m", "error": RED, "critical": "\x1b[1;31m"}

PLAIN = re.compile(r"[^\s\"'=\\,\[\]{}\x00-\x1f\x7f-\x9f\ud800-\udfff]+")  # a value that needs no quotes
STYLE = re.compile(r"\x1b\[[0-9;:]*m")  # ECMA-48 §8.3.117, select graphic rendition: colours, bold
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # it would move a terminal's cursor, or do worse
CONTROL_BUT_STYLE = re.compile(rf"(?!{STYLE.pattern}){CONTROL.pattern}")


Context = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Returns the fields that a line gets beside its own, at the moment in which it is written."""


class Lines(logging.Formatter):
    """A form of log lines for a process in this ``role``."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role
        self.standing: Mapping[str, Any] = {}
        """Fields of every line of this process."""
        self.context: Context | None = None

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        own = fields_of(record)
        more = {} if self.context is None or getattr(record, "is_bare", False) else self.context(own)
        return {**self.standing, **more, **own}


class JsonFormatter(Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": level_of(record),
            "role": self.role,
            "pid": os.getpid(),  # the record has none where user code has set logging.logProcesses
            "message": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json_of(line)


class TextFormatter(Lines):
    r"""Lines in columns: time, level, process, message, fields. What has many lines follows below, indented.

    With ``color`` for a terminal that shows it; colours of the text itself are kept then. Other control characters are
    shown as ``\x1b``, since clients' text is in the lines.
    """

    def __init__(self, role: str, color: bool = False) -> None:
        super().__init__(role)
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        level = level_of(record)
        seconds = time.strftime("%H:%M:%S", time.localtime(record.created))
        clock = f"{seconds}.{int(record.created * 1000) % 1000:03d}"
        head = [self._in(DIM, clock), self._in(COLORS.get(level, ""), f"{level:{LEVEL}}")]
        head.append(self._in(DIM, f"{self.role} {os.getpid()}".ljust(PROCESS)))
        message, *below = self._clean(record.getMessage()).split("\n")
        short: list[str] = []
        for key, value in self.fields(record).items():
            if isinstance(value, str) and "\n" in value.rstrip("\n"):
                below += [f"{key}:", *(INDENT + line for line in self._clean(value).rstrip("\n").split("\n"))]
            else:
                short.append(f"{self._in(CYAN, f'{key}=')}{value_of(value)}")
        if record.exc_info:
            below += self._in_red(self._clean(self.formatException(record.exc_info)).split("\n"))
        if record.stack_info:
            below += self._clean(record.stack_info).split("\n")
        line = " ".join([*head, message.ljust(MESSAGE), *short]) if short else " ".join([*head, message])
        return "\n".join([line.rstrip(), *((INDENT + one).rstrip() for one in below)])

    def _in(self, color: str, text: str) -> str:
        return f"{color}{text}{RESET}" if self._color and color else text

    def _in_red(self, lines: list[str]) -> list[str]:
        """Return a traceback with its last line, the exception, in red."""
        return [*lines[:-1], self._in(RED, lines[-1])]

    def _clean(self, text: str) -> str:
        if not self._color:
            return CONTROL.sub(escape, STYLE.sub("", text))
        cleaned = CONTROL_BUT_STYLE.sub(escape, text)
        return cleaned + RESET if STYLE.search(cleaned) else cleaned


def escape(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


def value_of(value: Any) -> str:
    """Return a field's value for text: quoted, as JSON, where it has spaces or other characters that could mislead."""
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value
    return CONTROL.sub(escape, json_of(value))


def json_of(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:  # a lone surrogate, which clients can send in JSON
        return json.dumps(value, default=str)


def level_of(record: logging.LogRecord) -> str:
    return LEVELS.get(record.levelno) or record.levelname.lower()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return dict(fields) if fields else {}


def shows_color(fd: int) -> bool:
    """Return whether ``fd`` is a terminal that shows colours, and nothing in the environment forbids them.

    NO_COLOR is described at https://no-color.org; a terminal without a name counts as one that shows none.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.isatty(fd)
    except OSError:
        return False
