"""LogLevels: the log level that an operator has set for all processes of a server, for a time or for good."""

from __future__ import annotations

import asyncio
import logging

from serving.ipc.messages import LogLevel, SetLogLevel
from serving.system import log
from serving.system.loglines import LEVELS

NUMBERS = {name: number for number, name in LEVELS.items()}


class LogLevels:
    """The level in ``word``, which every process reads whenever it has something to log: nobody has to be asked, and
    the busiest follows at once. 0 is the configured one.
    """

    def __init__(self, word: memoryview[int]) -> None:
        self._word = word
        self._lasting = 0
        self._timer: asyncio.TimerHandle | None = None

    def reply(self, message: SetLogLevel) -> LogLevel:
        """Set the level, if the message names one, and return the present one."""
        number = NUMBERS.get(message.level)
        if number is not None:
            self._set(number, max(0.0, message.seconds))
        seconds = 0.0 if self._timer is None else self._timer.when() - asyncio.get_running_loop().time()
        return LogLevel(shown(self._word[0]), seconds, shown(self._lasting) if self._timer else "")

    def _set(self, number: int, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._end)
        else:
            self._lasting = number
        self._write(number, seconds)

    def _end(self) -> None:
        self._timer = None
        self._write(self._lasting, 0.0)

    def _write(self, number: int, seconds: float) -> None:
        was, self._word[0] = shown(self._word[0]), number
        # Whatever the level: who reads the log must know why lines begin or end.
        log.write(logging.INFO, "the log level is set", now=shown(number), was=was, seconds=seconds or None)


def shown(number: int) -> str:
    return LEVELS.get(number or log.logger.level, "info")
