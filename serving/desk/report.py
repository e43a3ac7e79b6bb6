"""Report: what a check has found, and what the server logs meanwhile."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field

from serving.system.loglines import fields_of
from serving.usercode import origin


@dataclass(slots=True)
class Report:
    """The results as lines for people; ``problems`` make the check fail, ``risks`` do not."""

    facts: list[str] = field(default_factory=list)
    risks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


class Warnings(logging.Handler):
    """A log handler that collects the server's warnings about a model, and the tracebacks of exceptions."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.tracebacks.append(traceback_of(record.exc_info[1]))
            return
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        self.lines.append(f"{record.getMessage()} {fields}".strip())


def traceback_of(exc: BaseException) -> str:
    """Return the traceback from the first frame of user code on, if there is one."""
    trace = exc.__traceback__
    while trace is not None and not origin.is_users(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(exc.with_traceback(trace or exc.__traceback__))).rstrip()
