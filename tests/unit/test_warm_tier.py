"""The warm tier decided: who is parked, who is called back, who goes, and what parked workers leave to others."""

from __future__ import annotations

import msgspec
import pytest

from serving.errors import OutOfMemory
from serving.ipc.scoreboard import ROWS
from serving.model.model import Model, Speed
from serving.supervisor.fleet.actions import Assign, Discard, Park, Retire, Start
from serving.supervisor.fleet.admission import SETTLE
from serving.supervisor.fleet.deployment import PARK_TIME, Deployment, Owner, Stage, WorkerProcess
from serving.supervisor.fleet.spares import CUT
from serving.supervisor.fleet.warmtier import CLOSE_TIME
from tests.unit.test_fleet_gpus import GIB, Rig, model

CONTEXT = GIB // 2


def rig(*gpus: int, warm: int = 64) -> Rig:
    return Rig(*(gpus or (10,)), many=True, warm=warm)


def up(rig: Rig, name: str, size: int = 6, like: Model | None = None) -> tuple[Deployment, WorkerProcess]:
    """A model of the store that has come up and was used once."""
    served = rig.add(like or model(name), Owner.STORE, size)
    [replica] = rig.up(served, size)
    settle(rig, served)
    return served, replica


def settle(rig: Rig, served: Deployment) -> None:
    """It has been there for a while, and may be evicted."""
    rig.now += SETTLE + 0.1
    served.used = rig.now


def park(rig: Rig, replica: WorkerProcess, size: int = 6) -> None:
    """The worker says that it has brought so many GiB to the host."""
    replica.row.stamp_memory(size * GIB, size * GIB, CONTEXT)
    rig.driver.hold(replica.device, replica.pid or 0, CONTEXT)
    rig.act(rig.fleet.parked(replica.row.index, replica.epoch, rig.now))


def evicted(rig: Rig, first: str = "a", second: str = "b") -> tuple[WorkerProcess, Deployment]:
    """``first`` is parked and ``second`` is there in its place."""
    _, replica = up(rig, first)
    other = rig.add(model(second), Owner.STORE, 6)
    rig.tick()
    park(rig, replica)
    rig.up(other)
    settle(rig, other)
    return replica, other


def test_an_evicted_models_worker_is_parked_and_called_back_with_its_row_and_process() -> None:
    server = rig()
    worker, other = evicted(server)
    assert [action.replica for action in server.of(Park)] == [worker]
    assert server.of(Retire) == []
    assert server.fleet.state.get("a") is None, "it is not loaded"
    assert [one.pid for one in server.fleet.warm.all()] == [worker.pid]
    again = server.add(model("a"), Owner.STORE, 6)
    server.tick()
    park(server, other.live()[0] if other.live() else other.replicas[0])
    server.seen.clear()
    server.tick()
    [assign] = server.of(Assign)
    assert (assign.replica.deployment, assign.replica.pid, assign.replica.row.index) == (
        again,
        worker.pid,
        worker.row.index,
    )
    assert server.of(Start) == []
    assert server.up(again) == [assign.replica]
    assert [one.model.name for one in server.fleet.warm.all()] == ["b"]


def test_without_a_tier_it_ends() -> None:
    server = rig(warm=0)
    up(server, "a")
    server.add(model("b"), Owner.STORE, 6)
    server.tick()
    assert server.of(Park) == []
    assert len(server.of(Retire)) == 1


def test_one_that_does_not_fit_the_tier_ends() -> None:
    server = rig(warm=5)
    up(server, "a", 6)
    server.add(model("b"), Owner.STORE, 6)
    server.tick()
    assert len(server.of(Retire)) == 1


@pytest.mark.parametrize("speed", [Speed(cuda_graphs=True), Speed(compile="max-autotune")])
def test_a_model_with_recorded_graphs_ends_since_their_memory_cannot_be_moved(speed: Speed) -> None:
    server = rig()
    up(server, "a", like=msgspec.structs.replace(model("a"), speed=speed))
    server.add(model("b"), Owner.STORE, 6)
    server.tick()
    assert server.of(Park) == []


def test_one_unloaded_by_a_client_ends() -> None:
    server = rig()
    served, _ = up(server, "a")
    server.act(server.fleet.leave(served, server.now))
    assert len(server.of(Retire)) == 1


def test_the_tier_holds_so_many_bytes_and_those_parked_longest_ago_go() -> None:
    server = rig(warm=13)
    first, other = evicted(server, "a", "b")
    second = other.live()[0]
    third = server.add(model("c"), Owner.STORE, 6)
    server.tick()
    park(server, second)
    assert server.of(Discard) == [], "both fit"
    server.up(third)
    settle(server, third)
    last = third.live()[0]
    server.add(model("d"), Owner.STORE, 6)
    server.tick()
    park(server, last)
    assert [action.parked.pid for action in server.of(Discard)] == [first.pid]
    assert [one.model.name for one in server.fleet.warm.all() if one.may_take_over] == ["b", "c"]


def test_one_that_is_wanted_again_does_not_go_for_the_one_that_makes_way_for_it() -> None:
    server = rig(warm=7)
    worker, other = evicted(server)
    leaving = other.live()[0]
    again = server.add(model("a"), Owner.STORE, 6)
    server.tick()
    park(server, leaving)
    assert server.of(Discard) == []
    server.tick()
    assert again.live()[0].pid == worker.pid


def test_one_that_holds_more_than_was_thought_goes_at_once() -> None:
    server = rig(warm=8)
    _, replica = up(server, "a")
    server.add(model("b"), Owner.STORE, 6)
    server.tick()
    park(server, replica, size=9)
    assert [action.parked.pid for action in server.of(Discard)] == [replica.pid]


def test_a_model_whose_files_have_changed_is_loaded_anew_and_the_old_one_goes() -> None:
    server = rig()
    worker, other = evicted(server)
    server.add(msgspec.structs.replace(model("a"), digest="new"), Owner.STORE, 6)
    server.tick()
    park(server, other.live()[0] if other.live() else other.replicas[0])
    server.seen.clear()
    server.tick()
    assert len(server.of(Start)) == 1
    assert [action.parked.pid for action in server.of(Discard)] == [worker.pid]


def test_what_is_said_of_pins_and_replicas_does_not_make_it_another_model() -> None:
    server = rig()
    worker, _ = evicted(server)
    found = server.fleet.warm.of(msgspec.structs.replace(model("a"), pin=True, replicas=3))
    assert found is not None
    assert found.pid == worker.pid


def test_contexts_of_parked_workers_are_not_the_models_to_use_and_go_when_somebody_needs_them() -> None:
    server = rig()
    worker, other = evicted(server)
    server.tick()
    large = server.add(model("large"), Owner.STORE, 10)  # all of the GPU
    server.tick()
    assert large.stage is Stage.WAITING
    for _ in range(3):
        for action in server.of(Park):
            if action.replica in other.replicas:
                park(server, action.replica)
        for one in [action.parked for action in server.of(Discard)]:
            if one in server.fleet.warm.all():
                server.driver.hold(one.device, one.pid, 0)
                server.fleet.waiting_exited(one, server.now)
        server.tick()
    assert large.stage is Stage.SERVING
    assert len(server.fleet.warm) == 0
    assert worker.pid in {action.parked.pid for action in server.of(Discard)}


def test_what_can_never_fit_is_refused_all_the_same() -> None:
    server = rig()
    evicted(server)
    never = server.add(model("never"), Owner.STORE, 11)
    for _ in range(5):
        server.tick()
        for one in server.fleet.warm.all():
            if not one.is_wanted:
                server.fleet.waiting_exited(one, server.now)
    assert never.problem is not None
    assert never.problem.code == OutOfMemory.code


def test_a_model_goes_where_its_weights_wait_although_another_gpu_has_more_room() -> None:
    server = rig(10, 10)
    _, worker = up(server, "a")
    home = worker.device
    rest = next(name for name in ("cuda:0", "cuda:1") if name != home)
    up(server, "b", like=model("b", device=rest))
    wanting = server.add(model("c", device=home), Owner.STORE, 6)
    server.tick()
    park(server, worker)
    [third] = server.up(wanting)
    server.act(server.fleet.leave(wanting, server.now))
    server.exits(third)
    server.look()
    b = server.fleet.state.get("b")
    assert b is not None
    server.act(server.fleet.leave(b, server.now))
    server.exits(b.replicas[0])
    server.look()
    again = server.add(model("a"), Owner.STORE, 6)  # the other GPU is empty, here is a context
    server.seen.clear()
    server.tick()
    assert again.devices == (home,)
    assert [action.replica.pid for action in server.of(Assign)] == [worker.pid]


def test_those_of_a_broken_gpu_go_with_it() -> None:
    server = rig(10, 10)
    _, replica = up(server, "a", like=model("a", device="cuda:0"))
    server.add(model("b", device="cuda:0"), Owner.STORE, 6)
    server.tick()
    park(server, replica)
    server.driver.report("cuda:0", 79)
    server.look()
    assert [action.parked.pid for action in server.of(Discard)] == [replica.pid]


def test_one_that_dies_is_forgotten_and_its_row_is_free() -> None:
    server = rig()
    worker, _ = evicted(server)
    [parked] = server.fleet.warm.all()
    assert server.fleet.workers.by_pid(worker.pid or 0) is parked
    server.fleet.waiting_exited(parked, server.now)
    assert server.fleet.workers.by_pid(worker.pid or 0) is None
    assert len(server.fleet.workers.rows) == ROWS - 1


def test_one_that_cannot_park_and_ends_is_an_evicted_model_like_any_other() -> None:
    server = rig()
    _, worker = up(server, "a")
    other = server.add(model("b"), Owner.STORE, 6)
    server.tick()
    server.exits(worker)
    server.tick()
    assert server.fleet.state.get("a") is None
    assert len(server.fleet.warm) == 0
    assert other.stage is Stage.SERVING


def test_one_that_does_not_come_to_an_end_with_it_is_ended() -> None:
    server = rig()
    _, worker = up(server, "a")
    server.add(model("b"), Owner.STORE, 6)
    server.tick()
    server.tick(PARK_TIME - 1)
    assert worker.error is None
    server.tick(2)
    assert worker.row.pid == 0, "it was told to end"


def test_one_that_is_discarded_and_stays_is_killed() -> None:
    server = rig()
    worker, _ = evicted(server)
    server.act([*server.fleet.warm.close(server.now)])
    assert [action.at_once for action in server.of(Discard)] == [False]
    server.tick(CLOSE_TIME + 0.1)
    assert [action.at_once for action in server.of(Discard)] == [False, True]
    assert worker.pid == server.of(Discard)[-1].parked.pid


def test_one_without_its_control_connection_is_not_called_back_but_killed() -> None:
    server = rig()
    worker, _ = evicted(server)
    server.fleet.workers.cut(worker.row.index, worker.epoch, server.now)
    assert server.fleet.warm.of(model("a")) is None
    server.tick(CUT + 0.1)
    assert [action.at_once for action in server.of(Discard)] == [True]


def test_one_that_says_it_is_parked_though_nobody_asked_is_not_believed() -> None:
    server = rig()
    served, worker = up(server, "a")
    assert server.fleet.parked(worker.row.index, worker.epoch, server.now) == []
    assert served.live() == [worker]
