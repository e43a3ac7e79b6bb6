"""The HTTP master and the fork server: how often one may die before the server gives up."""

from __future__ import annotations

from serving.supervisor.services import CALM, RESTARTS, Service


class Rig:
    def __init__(self) -> None:
        self.service = Service("one")
        self.now = 100.0

    def life(self, seconds: float, serves_after: float | None = 0.1) -> bool:
        """One life; whether another one follows."""
        self.service.began(7)
        if serves_after is not None:
            self.service.serves(self.now + serves_after)
            self.service.serves(self.now + serves_after + 1)
        self.now += seconds
        return self.service.ended(self.now)


def test_deaths_in_a_row_are_counted() -> None:
    rig = Rig()
    assert [rig.life(1.0) for _ in range(RESTARTS + 1)] == [True] * RESTARTS + [False]


def test_one_that_served_for_a_while_begins_to_count_anew() -> None:
    rig = Rig()
    assert all(rig.life(CALM + 0.2) for _ in range(5 * RESTARTS))
    assert all(rig.life(1.0) for _ in range(RESTARTS - 1))
    assert rig.life(CALM + 0.2)
    assert rig.service.failures == 1


def test_one_that_lives_long_but_never_serves_is_a_failure() -> None:
    rig = Rig()
    assert [rig.life(100.0, serves_after=None) for _ in range(RESTARTS + 1)][-1] is False


def test_a_short_service_after_a_long_start_is_a_failure() -> None:
    rig = Rig()
    assert [rig.life(100.0, serves_after=100.0 - CALM / 2) for _ in range(RESTARTS + 1)][-1] is False
