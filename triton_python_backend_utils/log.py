"""Logger: a model's lines in the server's log; under a plain Python those of ``logging``."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable


def write_plainly(level: int, message: str) -> None:
    logging.getLogger("triton").log(level, "%s", message)


write: Callable[[int, str], None] = write_plainly  # the server puts its own log in place


class LogLevel(enum.IntEnum):
    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR
    VERBOSE = logging.DEBUG


class Logger:
    LogLevel = LogLevel
    INFO = LogLevel.INFO
    WARNING = LogLevel.WARNING
    ERROR = LogLevel.ERROR
    VERBOSE = LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: int = LogLevel.INFO) -> None:
        write(int(level), message)

    @staticmethod
    def log_info(message: str) -> None:
        write(logging.INFO, message)

    @staticmethod
    def log_warn(message: str) -> None:
        write(logging.WARNING, message)

    @staticmethod
    def log_error(message: str) -> None:
        write(logging.ERROR, message)

    @staticmethod
    def log_verbose(message: str) -> None:
        write(logging.DEBUG, message)
