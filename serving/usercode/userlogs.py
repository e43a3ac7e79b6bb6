"""User logs: the output of user code through ``logging`` and ``warnings``, which behave as in a new process.

The root logger has no handler, so that ``basicConfig`` and the like have their effect. Records without a handler are
written by the last resort, in the form of all log lines. The server's own events do not go this way.
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any, TextIO

from serving.system import log

PATIENCE = 2.0  # seconds that user code waits for a slow reader of its output

_given = logging.NOTSET  # the level that the root logger got here last


class Unclaimed(logging.Handler):
    """A handler that writes records through ``handler``, with their logger's name and ``fields``."""

    def __init__(self, handler: logging.Handler, fields: dict[str, Any]) -> None:
        super().__init__()
        self._handler = handler
        self._fields = fields

    def emit(self, record: logging.LogRecord) -> None:
        try:
            shown = copy.copy(record)
            shown.fields = {"logger": record.name, **self._fields}
            self._handler.handle(shown)
        except Exception:
            self.handleError(record)


def setup(level: str, style: str) -> None:
    """Send this process's own events to the present standard output, and reset ``logging``.

    Later changes of descriptor 1 do not matter. The root logger lets INFO through where ``level`` does.
    """
    global _given
    log.write_with(log.StdoutHandler(PATIENCE), "worker", level, style)
    logging.captureWarnings(False)
    root = logging.getLogger()
    root.manager.loggerDict.pop("py.warnings", None)
    root.handlers[:] = []
    _given = wanted_level()
    root.setLevel(_given)


def wanted_level() -> int:
    """Return the level for user code's loggers: that of the server's own events, but for DEBUG, which is for people who
    read the server's code; libraries would write thousands of lines.
    """
    return max(logging.INFO, log.logger.threshold)


def follow_level() -> None:
    """Let the root logger follow the server's level, unless user code has given it one. Called now and then on a thread
    that must not wait, as it might while user code configures ``logging``.
    """
    global _given
    root, level = logging.getLogger(), wanted_level()
    if level == _given or root.level != _given or not logging._lock.acquire(blocking=False):  # type: ignore[attr-defined]
        return
    try:
        root.setLevel(level)
        _given = level
    finally:
        logging._lock.release()  # type: ignore[attr-defined]


def claim(**fields: Any) -> None:
    """Write warnings, and log records of user code without a handler, with these fields."""
    [handler] = log.logger.handlers
    logging.lastResort = Unclaimed(handler, fields)
    plainly = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None:
            plainly(message, category, filename, lineno, file, line)
            return
        place = (filename, lineno)
        line = f"{filename}:{lineno}"
        log.emit(logging.WARNING, str(message), place=place, category=category.__name__, line=line, **fields)

    warnings.showwarning = show
