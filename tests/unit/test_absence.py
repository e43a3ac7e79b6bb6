"""A client that sends no more while an answer in pieces is under way: it has left, or it reads on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from serving.frontend.watch.absence import QUIET, Silence


class Loop:
    """A clock, and what is to happen by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, act: Callable[[], None]) -> Any:
        one = (self.now + delay, act)
        self.due.append(one)
        return Timer(lambda: self.due.remove(one))

    def go_on(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due and min(self.due)[0] <= end:
            one = min(self.due)
            self.due.remove(one)
            self.now = one[0]
            one[1]()
        self.now = end


class Timer:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


class Wire:
    """A connection that nobody has reset; ``unread`` bytes have not left."""

    def __init__(self) -> None:
        self.unread = 0
        self.is_aborted = False

    def get_extra_info(self, _: str) -> Wire:
        return self

    def fileno(self) -> int:
        raise OSError

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.is_aborted = True


@pytest.mark.parametrize(
    ("pause", "unread", "is_gone"), [(QUIET * 0.7, 0, False), (QUIET * 2, 0, True), (60, 9, False)]
)
def test_one_to_which_nothing_is_sent_for_long_counts_as_gone(pause: float, unread: int, is_gone: bool) -> None:
    loop, wire, sent = Loop(), Wire(), [0]
    wire.unread = unread
    Silence(cast(asyncio.Transport, wire), cast(asyncio.AbstractEventLoop, loop), lambda: sent[0])
    for _ in range(8):
        loop.go_on(pause)
        sent[0] += 1
    assert wire.is_aborted == is_gone


def test_nobody_is_watched_any_more_once_the_connection_has_ended() -> None:
    loop, wire = Loop(), Wire()
    watch = Silence(cast(asyncio.Transport, wire), cast(asyncio.AbstractEventLoop, loop), lambda: 0)
    watch.stop()
    assert loop.due == []
