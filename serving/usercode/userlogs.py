"""User logs: what user code says through ``logging`` and ``warnings``, which are its own as in a new process.

The root logger has no handler, so that ``basicConfig`` and its relatives do what they say. What no handler takes is
written by the last resort, in the form of all lines here. The server's own events do not pass this way.
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
    """Writes records by ``handler``, with the name of their logger and ``fields``."""

    def __init__(self, handler: logging.Handler, fields: dict[str, Any]) -> None:
        super().__init__()
        self._handler = handler
        self._fields = fields

    def emit(self, record: logging.LogRecord) -> None:
        shown = copy.copy(record)
        shown.fields = {"logger": record.name, **self._fields}
        self._handler.handle(shown)


def setup(level: str, style: str) -> None:
    """Send this process's own events to where its standard output leads now, whatever becomes of descriptor 1, and let
    go of ``logging``, of which INFO is let through where ``level`` lets it."""
    log.write_with(log.StdoutHandler(PATIENCE, os.dup(log.STDOUT)), "worker", level, style)
    logging.captureWarnings(False)
    root = logging.getLogger()
    root.manager.loggerDict.pop("py.warnings", None)
    root.handlers[:] = []
    root.setLevel(max(logging.INFO, log.logger.level))


def claim(**fields: Any) -> None:
    """Write what user code logs and none of its handlers takes, and its warnings, with these fields."""
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
