"""How much memory the bodies of large requests may take in one HTTP worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BodiesFull
from serving.frontend.bodies import COPIES, COUNTED, LOOSE, STILL, Bodies, BodyReservation

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


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A request that holds memory, and whether it had to leave; ``unread`` bytes of its answer wait for it."""

    def __init__(self, bodies: Bodies, size: int = 0) -> None:
        self.left = 0
        self.unread = 0
        self.held = BodyReservation(bodies, self.leave)
        self.held.grow(size)

    def leave(self) -> None:
        self.left += 1

    def answer(self, size: int) -> None:
        self.unread = size
        self.held.count_response(size, lambda: self.unread, self.leave)


def test_what_has_arrived_counts_in_steps_and_promises_count_nothing() -> None:
    bodies = Bodies(COPIES * ROOM)
    one = Client(bodies)
    one.held.ask(100 * ROOM)
    other = Client(bodies, ROOM - COUNTED)
    one.held.grow(2 * COUNTED - 1)
    with pytest.raises(BodiesFull):
        one.held.grow(2 * COUNTED)
    with pytest.raises(BodiesFull):
        Client(bodies).held.ask(COUNTED)
    other.held.release()
    one.held.grow(2 * COUNTED)


@pytest.mark.parametrize("kind", ["body", "answer"])
def test_those_who_stand_still_go_before_others_the_stillest_first_and_no_more_than_must(kind: str) -> None:
    clock = Clock()
    bodies = Bodies(COPIES * ROOM, clock=clock)
    clients = []
    for _ in range(4):
        clock.now += STILL / 2
        clients.append(one := Client(bodies, 2 * COUNTED if kind == "body" else 0))
        if kind == "answer":
            one.answer(2 * COUNTED)
    newcomer = Client(bodies, 2 * COUNTED)
    assert [one.left for one in clients] == [0, 0, 0, 0], "there is room"
    newcomer.held.grow(4 * COUNTED)
    assert [one.left for one in clients] == [1, 0, 0, 0]
    newcomer.held.grow(6 * COUNTED)
    assert [one.left for one in clients] == [1, 1, 0, 0]
    with pytest.raises(BodiesFull):
        newcomer.held.grow(7 * COUNTED)
    assert newcomer.left == 0


def test_a_body_that_moves_by_a_step_now_and_then_stays_and_one_that_trickles_goes() -> None:
    clock = Clock()
    bodies = Bodies(COPIES * ROOM, clock=clock)
    moving, trickling = Client(bodies, 2 * COUNTED), Client(bodies, 2 * COUNTED)
    for turn in range(1, 5):
        clock.now += STILL / 2
        moving.held.grow((2 + turn) * COUNTED)
        trickling.held.grow(2 * COUNTED + turn)
    Client(bodies, 4 * COUNTED)
    assert (moving.left, trickling.left) == (0, 1)


def test_a_client_that_reads_its_answer_stays_and_one_that_reads_a_byte_now_and_then_goes() -> None:
    clock = Clock()
    bodies = Bodies(COPIES * ROOM, clock=clock)
    reading, trickling = Client(bodies), Client(bodies)
    reading.answer(5 * COUNTED)
    trickling.answer(5 * COUNTED)
    clock.now += STILL
    reading.unread -= COUNTED
    trickling.unread -= 1
    Client(bodies, COUNTED)
    assert (reading.left, trickling.left) == (0, 1)


def test_a_body_that_is_whole_stays_until_its_answer_and_an_answer_takes_its_place() -> None:
    clock = Clock()
    bodies = Bodies(COPIES * ROOM, clock=clock)
    whole = Client(bodies, 6 * COUNTED)
    whole.held.keep()
    clock.now += 10 * STILL
    with pytest.raises(BodiesFull):
        Client(bodies, 5 * COUNTED)
    assert whole.left == 0
    whole.answer(2 * COUNTED)
    newcomer = Client(bodies, 8 * COUNTED)
    clock.now += 10 * STILL
    newcomer.held.keep()
    with pytest.raises(BodiesFull):
        whole.answer(3 * COUNTED)
    assert whole.left == 0, "it was refused, and so its end is told in another way"
    whole.held.release()
    newcomer.held.grow(10 * COUNTED)


def test_who_had_to_go_is_called_once_and_holds_nothing() -> None:
    clock = Clock()
    bodies = Bodies(COPIES * ROOM, clock=clock)
    one = Client(bodies, ROOM)
    clock.now += STILL
    Client(bodies, ROOM).held.release()
    one.held.release()
    assert (one.left, one.held.had_to_go) == (1, True)
    assert bodies.take(ROOM)
    assert not bodies.take(1)


def test_a_body_of_unknown_length_counts_as_it_comes_and_small_ones_never_do() -> None:
    bodies = Bodies(COPIES * ROOM)
    first, second, third = BodyReservation(bodies), BodyReservation(bodies), BodyReservation(bodies)
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
    held = [BodyReservation(bodies) for _ in range(5)]
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
    first, second = BodyReservation(bodies), BodyReservation(bodies)
    first.grow(2 * COUNTED)
    second.grow(COUNTED)
    first.release()
    assert not rests
    second.release()
    second.release()
    assert [one.cancelled for one in rests] == [False]
    first.grow(COUNTED)
    assert [one.cancelled for one in rests] == [True]


def test_what_is_let_go_is_looked_after_while_there_are_others_all_the_time() -> None:
    seen: list[int] = []
    bodies = Bodies(10 * LOOSE, tidy=seen.append)
    others = BodyReservation(bodies)
    others.grow(COUNTED)
    for _ in range(8):
        one = BodyReservation(bodies)
        one.grow(LOOSE // 2)
        one.release()
    assert seen == [COUNTED] * 4
