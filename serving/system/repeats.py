"""Repeats: events that come more often than anybody reads them are counted instead of written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

KINDS = 1000  # kinds of events that are counted at a time; more are written uncounted


class Bound(NamedTuple):
    """The ``most`` events of one kind that are written in ``seconds``."""

    most: int
    seconds: float


EVENTS = Bound(10, 1.0)
# What is printed is the model's own, so all of it is kept but for a loop that prints without end: the burst of a start,
# such as the layers of a large model, has some thousand lines. A thousand a second, for ten seconds, nobody reads; they
# take a part of a core, and at a reader that falls behind they would cost the server's own lines.
PRINTS = Bound(10_000, 10.0)


class Event(NamedTuple):
    """What an event is counted as: those of the same ``key`` are one kind. ``like`` describes it, with ``fields``."""

    key: Hashable
    level: int
    like: str
    fields: Mapping[str, Any]
    bound: Bound = EVENTS


class LeftOut(NamedTuple):
    """Events of one kind that were not written, so many ``lines`` within ``seconds``."""

    event: Event
    lines: int
    seconds: float

    def record(self) -> logging.LogRecord:
        """Return the line that says so."""
        event = self.event
        record = logging.LogRecord("serving", event.level, "", 0, "repeated lines were left out", None, None)
        record.fields = {"lines": self.lines, "seconds": round(self.seconds, 1), "like": event.like, **event.fields}
        record.is_bare = True
        return record


@dataclass(slots=True)
class Window:
    """The time from the first event of a kind, ``since``, for which its bound counts."""

    event: Event
    since: float
    written: int = 0
    left_out: int = 0

    @property
    def end(self) -> float:
        return self.since + self.event.bound.seconds


class Repeats:
    """The counts of one process. Nothing waits for them, and no timer runs: they are told by whoever asks next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[Hashable, Window] = {}
        self._due = float("inf")

    def is_due(self) -> bool:
        """Return whether ``ended`` has something to tell."""
        return self._clock() >= self._due

    def admits(self, event: Event) -> bool:
        """Count an event; returns whether it is to be written. Call ``ended`` before."""
        now = self._clock()
        window = self._windows.get(event.key)
        if window is None or (now >= window.end and not window.left_out):
            if window is None and len(self._windows) >= KINDS and not self._forget(now):
                return True
            window = self._windows[event.key] = Window(event, now)
        if window.written < event.bound.most:
            window.written += 1
            return True
        window.left_out += 1
        self._due = min(self._due, window.end)
        return False

    def ended(self) -> list[LeftOut]:
        """Return what was left out of windows that have ended, and forget these."""
        now = self._clock()
        if now < self._due:
            return []
        found = [one for one in self._windows.values() if one.left_out and now >= one.end]
        for one in found:
            del self._windows[one.event.key]
        self._due = min((one.end for one in self._windows.values() if one.left_out), default=float("inf"))
        return [LeftOut(one.event, one.left_out, now - one.since) for one in found]

    def _forget(self, now: float) -> bool:
        """Forget windows that have ended with nothing left out; returns whether there is room for another kind."""
        for key in [key for key, one in self._windows.items() if now >= one.end and not one.left_out]:
            del self._windows[key]
        return len(self._windows) < KINDS
