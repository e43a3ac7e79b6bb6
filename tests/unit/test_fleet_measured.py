"""A model is measured once it is loaded; one that turns out to be too large does not stay."""

from __future__ import annotations

import msgspec
import pytest

from serving.ipc.scoreboard import Phase
from serving.supervisor.fleet.actions import Learned, Retire, Settled
from serving.supervisor.fleet.deployment import Owner, Stage, Status
from serving.supervisor.fleet.workerreports import Progress
from tests.unit.test_fleet_many import MIB, Rig, problem


def message(rig: Rig, name: str) -> str:
    [settled] = [one for one in rig.seen if isinstance(one, Settled) and one.deployment.name == name]
    assert settled.problem is not None
    return settled.problem.message


@pytest.mark.parametrize("owner", [Owner.PLATFORM, Owner.STORE])
def test_a_model_that_measures_more_than_there_is_is_sent_away_with_the_numbers(owner: Owner) -> None:
    rig = Rig(100)
    served = rig.want("a", 20, owner)
    rig.load(served, memory=150)
    assert problem(rig, served) == "out_of_memory"
    assert message(rig, "a") == "there is no room for model a: it needs 150 MiB of the 100 MiB for models"
    assert served.stage is Stage.LEAVING
    assert rig.of(Retire)
    assert rig.of(Learned), "the next time it is refused at once"
    rig.leave(served)
    assert rig.fleet.state.current() == []
    again = rig.want("a", 150, owner)
    assert again.replicas == []
    assert again.stage is Stage.LEAVING


def test_beside_what_the_platform_has_loaded_before_it_counts_as_well() -> None:
    rig = Rig(100)
    first = rig.serve("a", 60, Owner.PLATFORM)
    second = rig.want("b", 20, Owner.PLATFORM)
    rig.load(second, memory=50)
    assert problem(rig, second) == "out_of_memory"
    assert message(rig, "b").endswith("it needs 50 MiB of the 100 MiB for models, 60 MiB fixed")
    assert first.stage is Stage.SERVING


def test_what_can_go_makes_room_for_what_has_come_larger_than_thought() -> None:
    rig = Rig(100)
    idle = rig.serve("idle", 60)
    served = rig.want("a", 20, Owner.PLATFORM)
    rig.load(served, memory=90)
    assert served.was_ready
    assert served.stage is Stage.SERVING
    rig.tick(2.0)
    assert idle.stage is Stage.LEAVING


def test_the_memory_of_a_gpu_counts_as_that_of_the_host() -> None:
    rig = Rig(100, devices={"cuda:0": 50})
    served = rig.want("a", 20, Owner.PLATFORM, device=10)
    served.model = msgspec.structs.replace(served.model, device="cuda:0")
    [replica] = served.replicas
    rig.fleet.workers.forked(replica.row.index, replica.epoch, 1)
    for status in (Status.LOADING, Status.WARMING, Status.READY):
        replica.row.phase = Phase[status.name]
        replica.row.stamp_memory(20 * MIB, 25 * MIB, 60 * MIB)
        rig.act(rig.fleet.progress(replica.row.index, replica.epoch, Progress(status, 100), rig.now))
    assert problem(rig, served) == "out_of_memory"
    assert "of 50 MiB on cuda:0, 60 MiB needed for a replica" in message(rig, "a")


def test_one_that_fits_to_the_byte_stays() -> None:
    rig = Rig(100)
    served = rig.want("a", 20, Owner.PLATFORM)
    rig.load(served, memory=100)
    assert served.stage is Stage.SERVING
    assert served.was_ready


def test_the_only_model_of_a_server_has_no_budget() -> None:
    rig = Rig(100)
    served = rig.fleet.add(rig.want("x", 1).model, rig.now, Owner.START)
    rig.tick()
    rig.load(served, memory=1000)
    assert served.stage is Stage.SERVING
