"""When the supervisor looks again: often while something is about to happen, seldom while nothing is."""

from __future__ import annotations

import pytest

from serving.supervisor.fleet.deployment import Status, WorkerProcess
from serving.supervisor.fleet.overrun import KILL_GRACE
from serving.supervisor.fleet.pace import REST, TICK, pause
from tests.unit.test_fleet import Rig


class Paced(Rig):
    def pause(self) -> float:
        return pause(self.fleet.state.everything(), self.now)

    def all_up(self) -> list[WorkerProcess]:
        starts = self.starts(self.tick())
        for replica in starts:
            self.bring_up(replica)
        return starts


@pytest.fixture
def rig() -> Paced:
    return Paced(replicas=2)


def test_replicas_that_are_ready_and_have_nothing_to_do_are_looked_at_seldom(rig: Paced) -> None:
    rig.all_up()
    assert rig.pause() == pytest.approx(REST)


def test_a_server_without_models_rests() -> None:
    assert pause([], 5.0) == pytest.approx(REST)


def test_what_is_starting_or_ending_is_looked_at_often(rig: Paced) -> None:
    first, second = rig.starts(rig.tick())
    assert rig.pause() == TICK
    rig.bring_up(first)
    assert rig.pause() == TICK
    rig.bring_up(second)
    assert rig.pause() == pytest.approx(REST)
    rig.fleet.end(second, "a reason", rig.now)
    assert second.status is Status.DYING
    assert rig.pause() == TICK


def test_one_that_is_to_be_started_again_is_not_forgotten(rig: Paced) -> None:
    first, _ = rig.all_up()
    rig.exits(first)
    assert rig.pause() == TICK


@pytest.mark.parametrize("sign", ["overdue", "cut"])
def test_one_that_may_have_stopped_is_looked_at_often(rig: Paced, sign: str) -> None:
    first, _ = rig.all_up()
    setattr(first, sign, rig.now)
    assert rig.pause() == TICK


@pytest.mark.parametrize(
    ("left", "expected"),
    [(60.0, REST), (0.0, KILL_GRACE), (-KILL_GRACE, TICK), (-1.0, TICK), (0.02, 0.02 + KILL_GRACE)],
)
def test_a_call_is_looked_at_when_its_time_is_over(rig: Paced, left: float, expected: float) -> None:
    _, second = rig.all_up()
    second.row.start([1], rig.now + left)
    assert rig.pause() == pytest.approx(expected)
