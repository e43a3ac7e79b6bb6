"""Signals: which ones end a process of the server, and which mean nothing to it.

| process | SIGTERM, SIGINT, SIGQUIT, SIGHUP | SIGUSR1, SIGUSR2 and the others that would end it |
|---|---|---|
| supervisor | drain, then end; SIGHUP not under ``nohup`` | logged |
| gunicorn master | SIGHUP: new HTTP workers, while the old ones finish; the others: nothing | nothing |
| HTTP worker | SIGTERM, SIGINT: finish, end, be replaced; the others: nothing | nothing |
| fork server, model worker | nothing; they end with the supervisor | nothing |
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
# The others that end a process without a handler and are no sign of a fault.
OTHERS = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPWR,
)


def overhear(numbers: Iterable[int]) -> None:
    """Do nothing on these signals from now on. What the process starts or forks has their usual meaning again: there
    they are how its parent ends it."""
    numbers = tuple(numbers)
    for number in numbers:
        signal.signal(number, do_nothing)
        signal.siginterrupt(number, False)  # no system call of a library fails for it
    os.register_at_fork(after_in_child=lambda: restore(numbers))


def do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def restore(numbers: Iterable[int]) -> None:
    """Their usual meaning, for those that nobody has given another one since."""
    for number in numbers:
        if signal.getsignal(number) is do_nothing:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
