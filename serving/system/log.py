"""Log: one line per event on standard output, JSON for machines or text for people.

The server's own events come from a logger outside the registry, so that nothing that user code does to ``logging``
changes or loses them. Records of libraries are written in the same form. Each line is written at once, unbuffered,
since a worker may be killed at any instant. Events that come too often are counted (``repeats``).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from logging import LogRecord  # by name, since user code can replace the attribute
from typing import Any

from serving.system.loglines import Context, JsonFormatter, Lines, TextFormatter, fields_of, shows_color
from serving.system.output import Output
from serving.system.repeats import EVENTS, PRINTS, Event, Repeats

PATIENCE = 0.1  # seconds that an event loop waits for a slow reader of our output
SHARE = 10  # of its time, an event loop waits at most one part in so many
STDOUT = 1  # descriptor
APART = ("model", "logger", "stream", "code", "metric")  # fields that make two kinds of events with the same message
LONGEST = 200  # characters of a message that describes others
NO_SWITCH: Sequence[int] = (0,)


class Private(logging.Logger):
    """A logger outside the registry, where ``logging.config`` and ``logging.disable`` cannot silence it.

    ``switch`` holds one number: the level that an operator has chosen, 0 for none. It may lie in memory that another
    process writes.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.parent = logging.root
        self.switch = NO_SWITCH

    @property
    def threshold(self) -> int:
        """The least level that is logged now."""
        return self.switch[0] or self.level or self.getEffectiveLevel()

    def isEnabledFor(self, level: int) -> bool:
        return level >= (self.switch[0] or self.level or self.getEffectiveLevel())


logger = Private("serving")


class StdoutHandler(logging.Handler):
    """Writes lines to what ``fd`` is now. Waits ``patience`` seconds for a reader that is behind; then lines are
    dropped, and counted, until it reads.

    A blocked write would hold up an event loop, and with it the supervisor's kills: with more patience than PATIENCE
    for user code, threads that run a loop say so with ``hurry``. ``clock`` is in seconds.
    """

    def __init__(self, patience: float, fd: int = STDOUT, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._patience = patience
        self._output = Output(fd)
        self._clock = clock
        self._pid = os.getpid()
        self._loops: set[int] = set()
        self._locks_from = 0.0  # the time from which a loop may wait again for another thread that writes
        self._waits_from = 0.0  # the time from which a loop may wait again
        self._begin()

    def _begin(self) -> None:
        self._repeats = Repeats(self._clock)
        self._dropped = 0
        self._missed: list[None] = []  # a line each that found the lock taken, which other threads append to

    def hurry(self) -> None:
        """Let this thread wait as an event loop may, and no longer."""
        self._loops.add(threading.get_ident())

    def handle(self, record: LogRecord) -> bool:
        if self._lock_soon():
            try:
                self.emit(record)
            finally:
                self.release()
        else:
            self._missed.append(None)
        return True

    def _lock_soon(self) -> bool:
        """Take the lock. It is held for an instant, or by a thread that waits for the reader: for that a loop waits a
        tenth of its time at most.
        """
        now = time.monotonic()
        patience = max(self._patience_here(), PATIENCE if now >= self._locks_from else 0.0)
        is_locked = self._lock(patience)
        if not is_locked:
            self._locks_from = time.monotonic() + (SHARE - 1) * patience
        return is_locked

    def emit(self, record: LogRecord) -> None:
        if os.getpid() != self._pid:  # a fork's parent says what it has left out
            self._pid = os.getpid()
            self._begin()
        lines, count = self._left_out()
        try:
            if self._repeats.admits(event_of(record)):
                lines, count = [*lines, self.format(record)], count + 1
        except Exception:
            self.handleError(record)  # as in every handler: a bad log call must not fail its caller
        self._write(lines, count, self._patience_here())

    def write_left_out(self) -> None:
        """Write how many lines were left out or dropped, where that is due. Called now and then; never waits."""
        if (self._repeats.is_due() or self._dropped or self._missed) and self._output.has_room() and self._lock(0.0):
            try:
                self._write(*self._left_out(), 0.0)
            finally:
                self.release()

    def is_behind(self) -> bool:
        """Return whether a line would have to wait for the reader now."""
        return not self._output.has_room()

    def _lock(self, seconds: float) -> bool:
        return self.lock is None or self.lock.acquire(timeout=seconds)

    def _left_out(self) -> tuple[list[str], int]:
        """Return lines about repeats, and the number of events that these stand for."""
        ended = self._repeats.ended()
        return [self.format(one.record()) for one in ended], sum(one.lines for one in ended)

    def _patience_here(self) -> float:
        if self._dropped:
            return 0.0
        if self._patience > PATIENCE and threading.get_ident() not in self._loops:
            return self._patience
        return PATIENCE if time.monotonic() >= self._waits_from else 0.0

    def _write(self, lines: list[str], count: int, patience: float) -> None:
        """Write lines that stand for ``count`` events, and first how many were dropped before."""
        missed = len(self._missed)
        if dropped := self._dropped + missed:
            note = LogRecord("serving", logging.WARNING, "", 0, "log lines were dropped", None, None)
            note.fields = {"lines": dropped}
            note.is_bare = True
            lines = [self.format(note), *lines]
        if not lines:
            return
        began = time.monotonic()
        try:
            is_written = self._output.write(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"), patience)
        except OSError:
            return  # nobody reads our output any more; serving goes on
        ended = time.monotonic()
        self._waits_from = max(self._waits_from, ended + (SHARE - 1) * (ended - began))
        del self._missed[:missed]
        self._dropped = 0 if is_written else dropped + count


def event_of(record: LogRecord) -> Event:
    """Return what a record is counted as: in user code its line, for the server's own events message and error."""
    fields = fields_of(record)
    apart = {name: fields[name] for name in APART if name in fields}
    if getattr(record, "is_printed", False):
        return Event(("printed", *map(str, apart.values())), record.levelno, "printed lines", apart, PRINTS)
    place = (record.name, record.levelno, record.pathname, record.lineno)
    like = str(record.msg)[:LONGEST]
    if record.pathname:
        return Event(place, record.levelno, like, apart)
    kind = record.exc_info[0] if record.exc_info else None
    # Somebody collects metrics, and has asked for debug lines.
    bound = PRINTS if "metric" in apart or record.levelno <= logging.DEBUG else EVENTS
    return Event((*place, like, kind, *map(str, apart.values())), record.levelno, like, apart, bound)


def setup(role: str, level: str, style: str, switch: Sequence[int] = NO_SWITCH) -> None:
    """Send all logging of this process to standard output. ``style`` is ``json`` or ``text``; for ``switch`` see
    ``Private``.
    """
    root = logging.getLogger()
    root.handlers[:] = [write_with(StdoutHandler(PATIENCE), role, level, style)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logger.switch = switch


def write_with(handler: StdoutHandler, role: str, level: str, style: str) -> StdoutHandler:
    """Write the server's own events of ``level`` and above with ``handler``, which is returned."""
    handler.setFormatter(JsonFormatter(role) if style == "json" else TextFormatter(role, shows_color(STDOUT)))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
    return handler


def surround(context: Context, **standing: Any) -> None:
    """Add these fields to each line of this process, and to those about events what ``context`` returns then."""
    for one in logger.handlers:
        if isinstance(one.formatter, Lines):
            one.formatter.context, one.formatter.standing = context, standing


def emit(
    level: int, message: str, *, exc: BaseException | None = None, place: tuple[str, int] = ("", 0), **fields: Any
) -> None:
    """Log one event with its fields; ``exc`` adds its traceback to the line.

    ``place`` is the file and the line of user code that the event is from.
    """
    if logger.isEnabledFor(level):
        logger.handle(made(level, message, exc, fields, place))


def write(level: int, message: str, **fields: Any) -> None:
    """Log one event whatever the level."""
    logger.handle(made(level, message, None, fields))


def printed(text: str, **fields: Any) -> None:
    """Log a line that user code has printed, whatever the level."""
    record = made(logging.INFO, text, None, fields)
    record.is_printed = True
    logger.handle(record)


def made(
    level: int, message: str, exc: BaseException | None, fields: dict[str, Any], place: tuple[str, int] = ("", 0)
) -> LogRecord:
    """Return the record of an event. It is built directly, since user code can replace logging's record factory."""
    told = None if exc is None else (type(exc), exc, exc.__traceback__)
    record = LogRecord(logger.name, level, *place, message, None, told)
    record.fields = {key: value for key, value in fields.items() if value is not None}
    return record


def debug(message: str, **fields: Any) -> None:
    emit(logging.DEBUG, message, **fields)


def info(message: str, **fields: Any) -> None:
    emit(logging.INFO, message, **fields)


def warning(message: str, **fields: Any) -> None:
    emit(logging.WARNING, message, **fields)


def error(message: str, *, exc: BaseException | None = None, **fields: Any) -> None:
    emit(logging.ERROR, message, exc=exc, **fields)


def handlers() -> list[StdoutHandler]:
    return [one for one in logger.handlers if isinstance(one, StdoutHandler)]


def is_behind() -> bool:
    """Return whether the next line would have to wait for a reader."""
    return any(one.is_behind() for one in handlers())


def write_left_out() -> None:
    """Write how many lines were left out, where that is due. Called now and then; never waits."""
    for one in handlers():
        one.write_left_out()


def hurry() -> None:
    """Let this thread, which runs an event loop, wait for a reader no longer than one may."""
    for one in handlers():
        one.hurry()
