"""Repeats: of one kind of event a bounded number is written, and the rest is counted to the last."""

from __future__ import annotations

import logging
import random
from collections import Counter

from serving.system.repeats import EVENTS, KINDS, PRINTS, Bound, Event, Repeats


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def event(key: str, bound: Bound = EVENTS) -> Event:
    return Event(key, logging.ERROR, key, {"model": "m"}, bound)


def test_more_than_the_bound_are_counted_and_told_once_their_time_is_over() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    assert [repeats.admits(event("a")) for _ in range(25)] == [True] * 10 + [False] * 15
    assert repeats.admits(event("b"))
    assert not repeats.is_due()
    assert repeats.ended() == []
    clock.now += EVENTS.seconds
    assert repeats.is_due()
    [one] = repeats.ended()
    assert (one.lines, one.event.like) == (15, "a")
    assert not repeats.is_due()
    assert repeats.ended() == []
    assert repeats.admits(event("a"))


def test_the_line_about_them_has_their_level_and_what_they_are() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    for _ in range(12):
        repeats.admits(event("a"))
    clock.now += 3.0
    [one] = repeats.ended()
    record = one.record()
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "repeated lines were left out")
    assert record.fields == {"lines": 2, "seconds": 3.0, "like": "a", "model": "m"}


def test_prints_have_a_bound_that_only_a_loop_reaches() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    prints = event("printed", PRINTS)
    assert all(repeats.admits(prints) for _ in range(PRINTS.most))
    assert not repeats.admits(prints)
    clock.now += 1.0
    assert not repeats.admits(prints)
    clock.now += PRINTS.seconds
    assert [one.lines for one in repeats.ended()] == [2]


def test_nothing_is_lost_whatever_comes_when() -> None:
    draw = random.Random(0)
    clock = Clock()
    repeats = Repeats(clock)
    came: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for _ in range(20_000):
        clock.now += draw.choice([0.0, 0.0, 0.001, 0.02, 1.5 if draw.random() < 0.01 else 0.0])
        for one in repeats.ended():
            told[one.event.like] += one.lines
        key = draw.choice("aaaaaabc")
        came[key] += 1
        told[key] += repeats.admits(event(key))
    clock.now += 60.0
    for one in repeats.ended():
        told[one.event.like] += one.lines
    assert told == came


def test_the_kinds_that_are_kept_are_bounded_and_what_is_beyond_is_written() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    for number in range(KINDS + 100):
        for _ in range(EVENTS.most + 1):
            admitted = repeats.admits(event(str(number)))
        assert admitted == (number >= KINDS)
    clock.now += EVENTS.seconds
    assert len(repeats.ended()) == KINDS
    for number in range(3 * KINDS):
        clock.now += EVENTS.seconds / KINDS
        assert repeats.admits(event(f"later {number}"))
