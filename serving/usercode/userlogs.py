"""User logs: the output of user code through ``logging`` and ``warnings``, which behave as in a new process.

The root logger has no handler, so that ``basicConfig`` and the like have their effect. Records without a handler are
written by the last resort, in the form of all log lines. The server's own events do not go this way.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from typing import Any, TextIO

from serving.system import log

PATIENCE = 2.0  # seconds that user code waits for a slow reader of its output


class Unclaimed(logging.Handler):
    """A handler that writes records through ``handler``, with their logger's name and ``fields``."""

    def __init__(self, handler: logging.Handler, fields: dict[str, Any]) -> None:
        super().__init__()
        self._handler = handler
        self._fields = fields

    def emit(self, record: logging.LogRecord) -> None:
        shown = copy.copy(record)
        shown.fields = {"logger": record.name, **self._fields}
        self._handler.handle(shown)


def setup(level: str, style: str) -> None:
    """Send this process's own events to the present standard output, and reset ``logging``.

    Later changes of descriptor 1 do not matter. The root logger lets INFO through where ``level`` does.
    """
    log.write_with(log.StdoutHandler(PATIENCE, os.dup(log.STDOUT)), "worker", level, style)
    logging.captureWarnings(False)
    root = logging.getLogger()
    root.manager.loggerDict.pop("py.warnings", None)
    root.handlers[:] = []
    root.setLevel(max(logging.INFO, log.logger.level))


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
        else:
            log.emit(logging.WARNING, str(message), category=category.__name__, line=f"{filename}:{lineno}", **fields)

    warnings.showwarning = show
