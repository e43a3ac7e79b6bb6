"""The fleet on GPUs that a fake driver plays: placement, memory that comes back late, GPUs that break, spares."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from serving.errors import ModelFailed, OutOfMemory
from serving.ipc.faults import EXIT_HARDWARE, Fault, fault_of_exit
from serving.ipc.scoreboard import ROWS, Phase, Scoreboard, State
from serving.model.model import Model
from serving.supervisor.fleet.actions import Action, Assign, Evicted, Gone, Publish, Settled, Spawn, Start, TakenOut
from serving.supervisor.fleet.admission import Admission
from serving.supervisor.fleet.cache import Budget
from serving.supervisor.fleet.deployment import LIVE, Deployment, Owner, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.describe import server_state
from serving.supervisor.fleet.devices import RETURN_TIME, Devices
from serving.supervisor.fleet.fleet import MOVE_TIME, Fleet
from serving.supervisor.fleet.spares import CONTEXT, SpareRule
from serving.supervisor.fleet.workerreports import Progress
from serving.supervisor.store.diskcache import Cost
from serving.supervisor.watch.gpuwatch import look_at
from serving.system.gpus.fake import FakeGpus

GIB = 1 << 30
HOST = 64 * GIB


def model(name: str = "m", device: str = "auto", replicas: int = 1, per_gpu: bool = False) -> Model:
    return Model(name, "/m", "/m/code", "a:B", 60.0, replicas, device, 1, 100, per_gpu=per_gpu)


class Rig:
    """``gpus`` and ``warm`` in GiB. Workers are played by the test; what they hold on a GPU is theirs until it says
    otherwise."""

    def __init__(self, *gpus: int, many: bool = False, spares: int = 0, warm: int = 0) -> None:
        self.many = many
        self.driver = FakeGpus(*(size * GIB for size in gpus))
        self.devices = Devices(self.driver.gpus())
        budget = Budget(HOST, {gpu.name: gpu.free for gpu in self.driver.gpus()}) if many else None
        self.fleet = Fleet(
            Scoreboard.create(),
            60.0,
            Admission(budget),
            self.devices,
            SpareRule(spares, "auto") if spares else None,
            warm * GIB,
        )
        self.pids = itertools.count(100)
        self.now = 1000.0
        self.seen: list[Action] = []

    def act(self, actions: list[Action]) -> list[Action]:
        self.seen += actions
        return actions

    def add(self, one: Model, owner: Owner = Owner.START, size: int = 4) -> Deployment:
        cost = Cost(1 << 20, 1 << 20, size * GIB)
        return self.fleet.add(one, self.now, owner, self.now + 10, cost)

    def tick(self, seconds: float = 0.02) -> list[Action]:
        self.now += seconds
        return self.act(self.fleet.tick(self.now))

    def look(self) -> list[Action]:
        """As the watch does it, a moment later."""
        self.now += 0.01
        return self.act(self.fleet.look(replace(look_at(self.driver), at=self.now), self.now))

    def up(self, served: Deployment, size: int = 4) -> list[WorkerProcess]:
        """All its replicas that have no process yet come up and hold ``size`` GiB each."""
        self.tick()
        found = [one for one in served.live() if one.status is not Status.READY]
        for replica in found:
            pid = replica.pid or next(self.pids)
            self.fleet.workers.forked(replica.row.index, replica.epoch, pid)
            for status in (Status.LOADING, Status.WARMING, Status.READY):
                replica.row.phase = Phase[status.name]
                if status is Status.READY and replica.device in self.devices:
                    self.driver.hold(replica.device, pid, size * GIB)
                    replica.row.stamp_memory(1 << 20, 1 << 20, size * GIB)
                self.act(
                    self.fleet.progress(replica.row.index, replica.epoch, Progress(status, 100, "cuda:0"), self.now)
                )
        return found

    def exits(self, replica: WorkerProcess, code: int = 1, keeps: bool = False) -> list[Action]:
        """Its process ends; if it ``keeps`` its memory the driver is late."""
        if replica.device in self.devices and not keeps:
            self.driver.hold(replica.device, replica.pid or 0, 0)
        fault, why = fault_of_exit(code)
        return self.act(self.fleet.exited(replica, why or f"exit code {code}", self.now, False, fault))

    def of(self, kind: Callable[..., Action]) -> list[Action]:
        return [action for action in self.seen if isinstance(action, kind)]  # type: ignore[arg-type]

    @property
    def state(self) -> tuple[State, str]:
        return server_state(self.fleet.state.everything())


def places(served: Deployment) -> list[str]:
    return sorted(replica.device for replica in served.live())


# Placement.


def test_replicas_of_one_model_are_spread_over_the_gpus() -> None:
    rig = Rig(16, 16)
    served = rig.add(model(replicas=3))
    rig.up(served)
    assert places(served) == ["cuda:0", "cuda:0", "cuda:1"]


def test_a_worker_that_calls_its_gpu_the_first_does_not_change_the_books() -> None:
    rig = Rig(16, 16)
    served = rig.add(model(device="cuda:1"))
    [replica] = rig.up(served)
    assert (replica.device, places(served)) == ("cuda:1", ["cuda:1"])


def test_one_that_could_not_use_its_gpu_is_on_the_cpu_in_the_books_too() -> None:
    rig = Rig(16)
    served = rig.add(model())
    rig.tick()
    [replica] = served.replicas
    rig.fleet.workers.forked(replica.row.index, replica.epoch, 7)
    for status in (Status.LOADING, Status.WARMING, Status.READY):
        rig.fleet.progress(replica.row.index, replica.epoch, Progress(status, 100, "cpu"), rig.now)
    assert places(served) == ["cpu"]
    assert rig.tick() == [], "and no other one is missing"


def test_where_nothing_is_known_of_gpus_the_worker_tells() -> None:
    rig = Rig()
    served = rig.add(model())
    [replica] = rig.up(served)
    assert replica.device == "cuda:0"


def test_models_of_a_store_go_where_most_memory_is_left_and_the_oldest_leaves() -> None:
    rig = Rig(10, 8, many=True)
    found = {}
    for name, asked in (("a", "auto"), ("b", "cuda"), ("c", "auto")):
        found[name] = rig.add(model(name, asked), Owner.STORE)
        rig.up(found[name])
        rig.tick(2.0)
    assert [places(found[name]) for name in "abc"] == [["cuda:0"], ["cuda:1"], ["cuda:0"]]
    rig.add(model("d", "cuda:1"), Owner.STORE, 6)
    rig.tick()
    assert [action.deployment.name for action in rig.of(Evicted)] == ["b"], "older ones are on the other GPU"


def test_without_bytes_to_count_models_of_a_store_are_spread_by_number() -> None:
    rig = Rig(16, 16)
    found = [rig.add(model(name), Owner.STORE) for name in "abcd"]
    for served in found:
        rig.up(served)
    assert sorted(device for served in found for device in places(served)) == ["cuda:0"] * 2 + ["cuda:1"] * 2


# Memory of the dead.


def test_a_replacement_waits_until_the_memory_is_back() -> None:
    rig = Rig(16)
    served = rig.add(model(), size=10)
    [dead] = rig.up(served, 10)
    rig.look()
    rig.seen.clear()
    rig.exits(dead, keeps=True)
    rig.tick()
    rig.look()
    rig.tick()
    assert rig.of(Start) == []
    rig.driver.hold("cuda:0", dead.pid or 0, 0)
    rig.look()
    rig.tick()
    assert len(rig.of(Start)) == 1


def test_it_does_not_wait_for_ever_nor_where_there_is_room_for_two() -> None:
    rig = Rig(16)
    served = rig.add(model(), size=10)
    [dead] = rig.up(served, 10)
    rig.look()
    rig.seen.clear()
    rig.exits(dead, keeps=True)
    rig.tick(RETURN_TIME - 0.1)
    assert rig.of(Start) == []
    rig.tick(0.2)
    assert len(rig.of(Start)) == 1
    roomy = Rig(16)
    small = roomy.add(model(), size=4)
    [dead] = roomy.up(small, 4)
    roomy.look()
    assert any(isinstance(action, Start) for action in roomy.exits(dead, keeps=True))


def test_one_that_is_being_ended_holds_its_memory_until_it_has() -> None:
    rig = Rig(16)
    served = rig.add(model(), size=10)
    [hung] = rig.up(served, 10)
    rig.look()
    rig.seen.clear()
    rig.act(rig.fleet.end(hung, "it hangs", rig.now))
    rig.tick(1.0)
    assert rig.of(Start) == []
    rig.exits(hung)
    rig.look()
    rig.tick()
    assert len(rig.of(Start)) == 1


def test_those_that_were_held_up_together_all_start() -> None:
    rig = Rig(16, 16)
    served = rig.add(model(replicas=2), size=10)
    first, second = rig.up(served, 10)
    rig.look()
    rig.seen.clear()
    rig.exits(first, keeps=True)
    rig.exits(second, keeps=True)
    for dead in (first, second):
        rig.driver.hold(dead.device, dead.pid or 0, 0)
    rig.look()
    rig.tick()
    assert sorted(action.replica.device for action in rig.of(Start)) == ["cuda:0", "cuda:1"]


def test_one_that_is_held_up_does_not_hold_up_the_other() -> None:
    rig = Rig(16, 16)
    served = rig.add(model(replicas=2), size=10)
    first, second = rig.up(served, 10)
    rig.look()
    rig.seen.clear()
    rig.exits(first, keeps=True)
    rig.exits(second)
    rig.look()
    rig.tick()
    assert [action.replica.device for action in rig.of(Start)] == [second.device]


def test_another_gpu_is_nobodys_business() -> None:
    rig = Rig(16, 16)
    one, other = rig.add(model("a", "cuda:0"), size=10), rig.add(model("b", "cuda:1"), size=10)
    [dead] = rig.up(one, 10)
    [lives] = rig.up(other, 10)
    rig.look()
    rig.exits(dead, keeps=True)
    rig.seen.clear()
    rig.exits(lives)
    rig.look()
    rig.tick()
    assert [action.replica.device for action in rig.of(Start)] == ["cuda:1"]


# GPUs that break.


def test_a_lost_context_costs_the_worker_and_not_the_gpu() -> None:
    rig = Rig(16)
    served = rig.add(model())
    [dead] = rig.up(served)
    rig.look()
    rig.exits(dead, 74)
    rig.tick()
    assert (places(served), rig.of(TakenOut)) == (["cuda:0"], [])


def test_a_worker_whose_gpu_failed_takes_it_out_and_the_model_moves() -> None:
    rig = Rig(16, 16)
    served = rig.add(model(replicas=2))
    first, second = sorted(rig.up(served), key=lambda one: one.device)
    rig.exits(first, EXIT_HARDWARE)
    assert rig.of(TakenOut) == [TakenOut("cuda:0", "its GPU failed")]
    assert second.status is Status.READY
    rig.up(served)
    assert places(served) == ["cuda:1", "cuda:1"]
    assert rig.state[0] is State.READY


def test_what_has_one_replica_on_each_gpu_goes_on_with_one_less() -> None:
    rig = Rig(16, 16)
    served = rig.add(model(replicas=2, per_gpu=True))
    rig.up(served)
    rig.driver.report("cuda:1", 79)
    rig.look()
    [hit] = [one for one in served.replicas if one.status is Status.DYING]
    rig.exits(hit)
    rig.tick()
    assert places(served) == ["cuda:0"]
    assert rig.state == (State.READY, "")


def test_one_pinned_to_a_broken_gpu_fails_with_the_reason_and_others_go_on() -> None:
    rig = Rig(16, 16)
    pinned, other = rig.add(model("pinned", "cuda:1")), rig.add(model("other", "cuda:0"))
    rig.up(pinned)
    rig.up(other)
    rig.driver.report("cuda:1", 95)
    assert Publish("pinned") in rig.look()
    assert rig.fleet.state.placement("pinned").failed == "cuda:1 was taken out: Xid 95: uncontained memory error"
    assert len(rig.fleet.state.placement("other").replicas) == 1
    for replica in list(pinned.replicas):
        rig.exits(replica)
    rig.tick(10.0)
    assert places(pinned) == []


def test_with_the_last_gpu_the_server_fails() -> None:
    rig = Rig(16, 16)
    served = rig.add(model(replicas=2))
    rig.up(served)
    rig.driver.report("cuda:0", 79)
    rig.look()
    assert rig.state[0] is State.DEGRADED
    rig.driver.lose("cuda:1")
    rig.look()
    for replica in list(served.replicas):
        rig.exits(replica)
    state, why = rig.state
    assert state is State.FAILED
    assert "cuda:0 was taken out: Xid 79" in why
    assert "cuda:1 was taken out: the driver has lost it" in why


def test_programs_errors_take_nothing_out() -> None:
    rig = Rig(16)
    served = rig.add(model())
    rig.up(served)
    for code in (13, 31, 43, 45, 63, 92, 94):
        rig.driver.report("cuda:0", code)
    assert rig.look() == []
    assert len(served.ready()) == 1


def test_a_model_of_a_store_that_was_on_it_moves_and_idle_ones_make_room() -> None:
    rig = Rig(10, 10, many=True)
    first = rig.add(model("a"), Owner.STORE, 6)
    rig.up(first, 6)
    rig.tick(2.0)
    second = rig.add(model("b"), Owner.STORE, 6)
    rig.up(second, 6)
    rig.tick(2.0)
    assert places(first) + places(second) == ["cuda:0", "cuda:1"]
    first.used = rig.now  # the other one was used longer ago
    rig.driver.report("cuda:0", 48)
    rig.look()
    [hit] = first.replicas
    assert hit.status is Status.DYING
    rig.tick()
    assert [action.deployment.name for action in rig.of(Evicted)] == ["b"]
    rig.exits(hit)
    rig.tick()
    assert places(first) == [], "not before there is room"
    rig.exits(second.replicas[0])
    rig.look()
    rig.up(first, 6)
    assert places(first) == ["cuda:1"]


def test_a_model_of_a_store_that_finds_no_room_elsewhere_is_given_up() -> None:
    rig = Rig(10, 10, many=True)
    moves, busy = rig.add(model("a"), Owner.STORE, 6), rig.add(model("b", "cuda:1"), Owner.STORE, 6)
    rig.up(moves, 6)
    rig.up(busy, 6)
    busy.replicas[0].row.queued = 1
    rig.driver.report("cuda:0", 48)
    rig.look()
    rig.exits(moves.replicas[0])
    rig.tick(MOVE_TIME + 1)
    assert moves.problem is not None
    assert moves.problem.code == OutOfMemory.code
    assert [served.name for served in rig.fleet.state.everything()] == ["b"]


def test_a_model_of_a_store_that_may_be_nowhere_else_leaves_and_tells_why() -> None:
    rig = Rig(10, 10, many=True)
    served = rig.add(model("a", "cuda:1"), Owner.STORE)
    rig.up(served)
    rig.driver.report("cuda:1", 79)
    rig.look()
    settled = [action for action in rig.of(Settled) if action.problem is not None]
    assert settled[0].problem.code == ModelFailed.code
    assert "cuda:1 was taken out: Xid 79" in settled[0].problem.message
    assert served.stage is Stage.LEAVING
    later = rig.add(model("b", "cuda:1"), Owner.STORE)
    rig.tick()
    assert later.stage is Stage.LEAVING
    assert later.problem is not None
    assert later.problem.code != OutOfMemory.code


def test_one_that_waits_for_room_on_a_gpu_that_breaks_is_told_at_once() -> None:
    rig = Rig(10, 10, many=True)
    busy = rig.add(model("busy", "cuda:1"), Owner.STORE, 8)
    rig.up(busy, 8)
    rig.tick(2.0)
    busy.replicas[0].row.queued = 1
    waits = rig.add(model("waits", "cuda:1"), Owner.STORE, 8)
    rig.tick()
    assert waits.stage is Stage.WAITING
    rig.driver.report("cuda:1", 79)
    rig.look()
    assert waits.problem is not None
    assert waits.problem.code == ModelFailed.code


def test_a_successor_that_waits_leaves_once_with_the_model_whose_gpu_breaks() -> None:
    rig = Rig(10, 10, many=True)
    old, busy = (rig.add(model(name, "cuda:1"), Owner.STORE) for name in "ab")
    rig.up(old)
    rig.up(busy)
    rig.tick(2.0)
    busy.replicas[0].row.queued = 1
    new = rig.add(model("a", "cuda:1"), Owner.STORE)
    rig.tick()
    assert new.stage is Stage.WAITING
    rig.driver.report("cuda:1", 79)
    rig.look()
    assert [one.stage for one in (old, busy, new)] == [Stage.LEAVING] * 3
    assert [action.deployment for action in rig.of(Gone)] == [new]
    assert [action.deployment for action in rig.of(Settled) if action.problem is not None] == [old, busy]


def test_a_successor_that_waits_leaves_once_with_a_model_that_finds_no_other_gpu() -> None:
    rig = Rig(10, 10, many=True)
    old, busy = rig.add(model("a"), Owner.STORE, 4), rig.add(model("b", "cuda:1"), Owner.STORE, 8)
    rig.up(old, 4)
    rig.up(busy, 8)
    rig.tick(2.0)
    busy.replicas[0].row.queued = 1
    new = rig.add(model("a"), Owner.STORE, 4)
    new.wanted_until = rig.now + MOVE_TIME
    rig.driver.report("cuda:0", 48)
    rig.look()
    rig.exits(old.replicas[0])
    rig.tick()
    assert [one.stage for one in (old, new)] == [Stage.WAITING] * 2
    rig.tick(MOVE_TIME + 1)
    assert [action.deployment for action in rig.of(Gone)] == [new, old]
    assert list(rig.fleet.state.everything()) == [busy]


def test_a_first_load_that_breaks_the_gpu_goes_on_elsewhere() -> None:
    rig = Rig(10, 10, many=True)
    served = rig.add(model("a"), Owner.STORE)
    rig.tick()
    [replica] = served.replicas
    rig.fleet.workers.forked(replica.row.index, replica.epoch, 7)
    rig.exits(replica, EXIT_HARDWARE)
    rig.tick()
    assert places(served) == ["cuda:1"]
    assert [action for action in rig.of(Settled) if action.problem is not None] == []


def test_a_worker_on_the_cpu_cannot_break_a_gpu() -> None:
    rig = Rig(16)
    served = rig.add(model(device="cpu"))
    [replica] = rig.up(served)
    rig.exits(replica, EXIT_HARDWARE)
    assert rig.of(TakenOut) == []
    assert places(served) == ["cpu"]
    assert fault_of_exit(3) == (Fault.NONE, "")


# Spares.


def spare_up(rig: Rig) -> int:
    [spawn] = [action for action in rig.tick() if isinstance(action, Spawn)]
    pid = next(rig.pids)
    rig.fleet.workers.forked(spawn.spare.row.index, spawn.spare.epoch, pid)
    spawn.spare.row.stamp_memory(1 << 20, 1 << 20, GIB // 2)
    rig.fleet.spares.ready(spawn.spare.row.index, spawn.spare.epoch, rig.now)
    return pid


def test_a_replacement_takes_the_spare_with_its_row_and_process() -> None:
    rig = Rig(16, spares=1)
    served = rig.add(model())
    [dead] = rig.up(served)
    rig.look()
    pid = spare_up(rig)
    rig.seen.clear()
    rig.exits(dead)
    [assign] = rig.of(Assign)
    assert (assign.replica.pid, rig.fleet.workers.by_pid(pid)) == (pid, assign.replica)
    assert rig.of(Start) == []
    assert rig.up(served) == [assign.replica]


def test_a_spare_of_another_gpu_is_of_no_use() -> None:
    rig = Rig(16, 16, spares=1)
    served = rig.add(model("a", "cuda:1"))
    rig.up(served)
    spare_up(rig)
    assert [one.device for one in rig.fleet.spares.all()] == ["cuda:1"]
    other = rig.add(model("b", "cuda:0"))
    rig.seen.clear()
    rig.tick()
    assert [action.replica.deployment for action in rig.of(Start)] == [other]
    assert rig.of(Assign) == []


def test_a_spare_that_dies_with_a_model_in_hand_is_tried_once_more_with_a_new_process() -> None:
    rig = Rig(16, spares=1, many=True)
    served = rig.add(model(), Owner.STORE)
    rig.seen.clear()
    rig.tick()
    for replica in rig.up(served):
        rig.look()
        spare_up(rig)
        rig.seen.clear()
        rig.exits(replica)
    for expected in (Assign, Start):
        [action] = rig.of(expected)
        rig.seen.clear()
        rig.exits(action.replica, keeps=True)
    assert served.restarts.failures == 1, "the new process was the model's own to lose"


def test_what_spares_hold_is_not_the_models_to_use() -> None:
    rig = Rig(10, spares=1, many=True)
    spare_up(rig)
    rig.tick()
    large = rig.add(model("large"), Owner.STORE, 10)
    rig.tick()
    assert large.stage is Stage.LEAVING
    assert large.problem is not None
    assert large.problem.code == OutOfMemory.code
    fits = rig.add(model("fits"), Owner.STORE, 9)
    rig.tick()
    assert fits.stage is Stage.SERVING


@pytest.mark.parametrize("code", [48, 79])
def test_spares_of_a_broken_gpu_go_with_it(code: int) -> None:
    rig = Rig(16, 16, spares=1)
    served = rig.add(model(replicas=2, per_gpu=True))
    rig.up(served)
    spare_up(rig)
    spare_up(rig)
    rig.driver.report("cuda:0", code)
    rig.look()
    rig.tick()
    assert [one.device for one in rig.fleet.spares.all() if rig.fleet.workers.wants(one.row.index, one.epoch)] == [
        "cuda:1"
    ]


steps = st.lists(
    st.tuples(
        st.sampled_from(["want", "ready", "crash", "hardware", "sticky", "end", "xid", "spare", "tick", "look"]),
        st.integers(0, 7),
        st.sampled_from(["auto", "cuda", "cpu", "cuda:0", "cuda:1"]),
    ),
    max_size=50,
)


def play(rig: Rig, what: str, number: int, device: str) -> None:
    """One step of a story."""
    replicas = rig.fleet.workers.of(Role.SERVING)
    replica = replicas[number % len(replicas)] if replicas else None
    if what == "want" and rig.many and rig.fleet.state.get(f"m{number}") is None:
        rig.add(model(f"m{number}", device, 1 + number % 2), Owner.STORE, 1 + number)
    elif what == "ready" and replica is not None and replica.status is Status.STARTING:
        come_up(rig, replica)
    elif what in ("crash", "hardware", "sticky") and replica is not None:
        rig.exits(replica, {"crash": 1, "hardware": EXIT_HARDWARE, "sticky": 74}[what], keeps=True)
    elif what == "end" and replica is not None and replica.pid is not None:
        rig.act(rig.fleet.end(replica, "it hangs", rig.now))
    elif what == "xid" and device in rig.devices:
        rig.driver.report(device, 79 if number else 13)
    elif what == "spare":
        for spare in rig.fleet.spares.all():
            if spare.pid is None:
                rig.fleet.workers.forked(spare.row.index, spare.epoch, next(rig.pids))
                rig.fleet.spares.ready(spare.row.index, spare.epoch, rig.now)
            elif number == 0:
                rig.fleet.spares.exited(spare, rig.now)
    elif what == "look":
        rig.look()
    rig.tick(number / 4)


def come_up(rig: Rig, replica: WorkerProcess) -> None:
    pid = replica.pid or next(rig.pids)
    rig.fleet.workers.forked(replica.row.index, replica.epoch, pid)
    for status in (Status.LOADING, Status.WARMING, Status.READY):
        replica.row.phase = Phase[status.name]
        rig.act(rig.fleet.progress(replica.row.index, replica.epoch, Progress(status, 100), rig.now))


@given(steps, st.booleans(), st.integers(0, 2))
def test_whatever_happens_nothing_starts_on_a_broken_gpu_and_all_rows_come_back(
    story: list[tuple[str, int, str]], many: bool, spares: int
) -> None:
    """Any story of loads, deaths and broken GPUs; what ends keeps its memory until the next look."""
    rig = Rig(16, 16, many=many, spares=spares)
    if not many:
        rig.add(model(replicas=2))
    broken: set[str] = set()
    for what, number, device in story:
        rig.seen.clear()
        play(rig, what, number, device)
        started = [action.replica for action in rig.seen if isinstance(action, Start | Assign)]
        broken |= {action.device for action in rig.of(TakenOut)}
        assert not [one for one in started if one.device in broken]
        live = [one for one in rig.fleet.workers.of(Role.SERVING) if one.device in broken and one.status in LIVE]
        assert live == []
        assert {action.replica for action in rig.of(Start)} <= set(rig.fleet.workers.of(Role.SERVING))
    for served in list(rig.fleet.state.everything()):
        rig.act(rig.fleet.leave(served, rig.now))
        for replica in list(served.replicas):
            rig.exits(replica)
    rig.fleet.spares.close(rig.now)
    for spare in rig.fleet.spares.all():
        rig.fleet.spares.exited(spare, rig.now)
    assert list(rig.fleet.state.everything()) == []
    assert len(rig.fleet.workers.rows) == ROWS


# Models that were never loaded here.


def never_loaded(name: str, gib: float, device: str = "auto") -> Model:
    return structs.replace(model(name, device), size=int(gib * GIB))


def test_models_that_load_at_once_are_booked_with_their_contexts() -> None:
    rig = Rig(8, many=True)
    for number in range(16):
        rig.fleet.add(never_loaded(f"m{number}", 0.1), rig.now, Owner.STORE, rig.now + 10)
    rig.tick()
    loading = [one for one in rig.fleet.state.everything() if one.stage is Stage.SERVING]
    assert len(loading) * (CONTEXT + int(0.1 * GIB)) <= 8 * GIB
    assert len(loading) >= 12


@pytest.mark.parametrize("device", ["auto", "cuda:0"])
@pytest.mark.parametrize("gib", [40, 65, 71.9])
def test_a_model_whose_files_fit_on_its_gpu_is_tried(gib: float, device: str) -> None:
    rig = Rig(72, many=True)
    rig.fleet.state.admission.set_budget(replace(rig.fleet.state.admission.budget, host=128 * GIB))
    served = rig.fleet.add(never_loaded("large", gib, device), rig.now, Owner.STORE, rig.now + 10)
    rig.tick()
    assert served.stage is Stage.SERVING


def test_one_whose_files_do_not_fit_is_refused() -> None:
    rig = Rig(72, many=True)
    rig.fleet.state.admission.set_budget(replace(rig.fleet.state.admission.budget, host=128 * GIB))
    served = rig.fleet.add(never_loaded("large", 73), rig.now, Owner.STORE, rig.now + 10)
    rig.tick()
    assert served.stage is not Stage.SERVING


def test_on_a_cpu_files_may_be_in_memory_twice_unless_only_once_fits() -> None:
    rig = Rig(many=True)
    whole, half = (rig.fleet.add(never_loaded(str(gib), gib), rig.now, Owner.STORE, rig.now + 10) for gib in (40, 1))
    rig.tick()
    assert (whole.stage, half.stage) == (Stage.SERVING, Stage.SERVING)
    assert 40 * GIB < whole.cost.peak < 41 * GIB
    assert 2 * GIB < half.cost.peak < 3 * GIB
