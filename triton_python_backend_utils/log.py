"""Logger: a model's lines in the server's log; under a plain Python those of ``logging``."""

from __future__ import annotations

import enum
import logging

logger = logging.getLogger("serving.triton")


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
        logger.log(int(level), "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        logger.info("%s", message)

    @staticmethod
    def log_warn(message: str) -> None:
        logger.warning("%s", message)

    @staticmethod
    def log_error(message: str) -> None:
        logger.error("%s", message)

    @staticmethod
    def log_verbose(message: str) -> None:
        logger.debug("%s", message)
