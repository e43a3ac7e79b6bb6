"""Signals: which ones end a process of the server, and which it ignores.

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
# The other signals that end a process by default and are no sign of a fault.
OTHERS = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPWR,
)


class Stopped(Exception):
    """A stop was requested before the server had started."""


def check_stop() -> None:
    """Raise Stopped if a blocked signal asks for a stop; the signal stays pending."""
    if signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
        raise Stopped


def ignore_signals(numbers: Iterable[int]) -> None:
    """Ignore these signals from now on. In processes that this one starts or forks they have their default action
    again, since their parent ends them by these signals.
    """
    numbers = tuple(numbers)
    for number in numbers:
        signal.signal(number, do_nothing)
        signal.siginterrupt(number, False)  # so that no library's system call fails with EINTR
    os.register_at_fork(after_in_child=lambda: restore(numbers))


def do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def restore(numbers: Iterable[int]) -> None:
    """Restore the default action of those signals for which no other handler was set since."""
    for number in numbers:
        if signal.getsignal(number) is do_nothing:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
