"""How much memory the bodies of large requests may take in one HTTP worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BodiesFull
from serving.frontend.bodies import COPIES, COUNTED, Bodies, Held

ROOM = 10 * COUNTED


def test_bodies_are_taken_while_there_is_room_for_two_of_each() -> None:
    bodies = Bodies(COPIES * ROOM)
    assert bodies.take(ROOM // 2)
    assert bodies.take(ROOM // 2)
    assert not bodies.take(1)
    bodies.give(ROOM // 2)
    assert bodies.take(1)


def test_one_that_finds_no_other_is_taken_whatever_its_size() -> None:
    bodies = Bodies(COPIES * ROOM)
    assert bodies.take(100 * ROOM)
    assert not bodies.take(COUNTED)


def test_a_body_of_unknown_length_counts_as_it_comes_and_small_ones_never_do() -> None:
    bodies = Bodies(COPIES * ROOM)
    first, second, third = Held(bodies), Held(bodies), Held(bodies)
    for size in range(COUNTED, ROOM, COUNTED):
        first.grow(size)
    second.grow(COUNTED)
    with pytest.raises(BodiesFull):
        second.grow(2 * COUNTED)
    third.grow(COUNTED - 1)
    first.release()
    third.grow(8 * COUNTED)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12) | st.none())))
def test_whatever_comes_and_goes_no_room_is_lost(steps: list[tuple[int, int | None]]) -> None:
    bodies = Bodies(COPIES * ROOM)
    held = [Held(bodies) for _ in range(5)]
    for index, blocks in steps:
        if blocks is None:
            held[index].release()
            continue
        try:
            held[index].grow(blocks * COUNTED)
        except BodiesFull:
            held[index].release()
    for one in held:
        one.release()
    assert bodies.take(ROOM)
    assert not bodies.take(1)


class Rest:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def test_a_rest_begins_when_the_last_one_has_gone_and_ends_with_the_next() -> None:
    rests: list[Rest] = []

    def rest() -> Rest:
        rests.append(Rest())
        return rests[-1]

    bodies = Bodies(COPIES * ROOM, rest)
    first, second = Held(bodies), Held(bodies)
    first.grow(2 * COUNTED)
    second.grow(COUNTED)
    first.release()
    assert not rests
    second.release()
    second.release()
    assert [one.cancelled for one in rests] == [False]
    first.grow(COUNTED)
    assert [one.cancelled for one in rests] == [True]
