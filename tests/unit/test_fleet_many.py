"""The fleet with a budget: many models, loaded when wanted, evicted when idle, never twice at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ModelFailed, OutOfMemory
from serving.ipc.scoreboard import Phase, Scoreboard
from serving.model.model import Model
from serving.supervisor.fleet.actions import Action, Evicted, Gone, Learned, Retire, Settled, Start
from serving.supervisor.fleet.admission import Admission
from serving.supervisor.fleet.cache import Budget
from serving.supervisor.fleet.deployment import SLACK, Deployment, Owner, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.fleet.workerreports import Progress
from serving.supervisor.store.diskcache import Cost

MIB = 1 << 20
PATIENCE = 10.0


def model(name: str, digest: str = "", replicas: int = 1, device: str = "cpu", pin: bool = False) -> Model:
    return Model(name, "/m", "/m/code", "a:B", 60.0, replicas, device, 1, 100, digest=digest, pin=pin)


class Rig:
    """A fleet whose workers the test plays."""

    def __init__(self, host: int = 100, models: int | None = None, devices: dict[str, int] | None = None) -> None:
        budget = Budget(host * MIB, {name: size * MIB for name, size in (devices or {}).items()}, models)
        self.board = Scoreboard.create()
        self.fleet = Fleet(self.board, 60.0, Admission(budget))
        self.pids = itertools.count(100)
        self.now = 1000.0
        self.seen: list[Action] = []

    def act(self, actions: list[Action]) -> list[Action]:
        self.seen += actions
        return actions

    def want(self, name: str, cost: int, owner: Owner = Owner.STORE, device: int = 0, **fields: object) -> Deployment:
        one = model(name, **fields)  # type: ignore[arg-type]
        own = cost * MIB - SLACK  # so that it is charged with ``cost``
        size = Cost(own, own, device * MIB)
        served = self.fleet.add(one, self.now, owner, self.now + PATIENCE, size)
        self.act(self.fleet.admit(self.now))
        return served

    def tick(self, seconds: float = 0.01) -> list[Action]:
        self.now += seconds
        return self.act(self.fleet.tick(self.now))

    def load(self, served: Deployment, memory: int | None = None) -> None:
        for replica in served.live():
            if replica.pid is None:
                self.bring_up(replica, memory)

    def bring_up(self, replica: WorkerProcess, memory: int | None = None) -> None:
        self.fleet.workers.forked(replica.row.index, replica.epoch, next(self.pids))
        for status in (Status.LOADING, Status.WARMING, Status.READY):
            replica.row.phase = Phase[status.name]
            if status is Status.READY:
                size = replica.deployment.cost.host if memory is None else memory * MIB - SLACK
                replica.row.stamp_memory(size, size, replica.deployment.cost.device)
            self.act(self.fleet.progress(replica.row.index, replica.epoch, Progress(status, 100), self.now))

    def serve(self, name: str, cost: int, owner: Owner = Owner.STORE, **fields: object) -> Deployment:
        """A model that is loaded and has been used a while ago."""
        served = self.want(name, cost, owner, **fields)  # type: ignore[arg-type]
        self.load(served)
        self.tick(2.0)
        return served

    def exit(self, replica: WorkerProcess, out_of_memory: bool = False) -> list[Action]:
        return self.act(self.fleet.exited(replica, "exit code 0", self.now, out_of_memory))

    def leave(self, served: Deployment) -> None:
        for replica in list(served.replicas):
            self.exit(replica)

    def of(self, kind: Callable[..., Action]) -> list[Action]:
        return [action for action in self.seen if isinstance(action, kind)]  # type: ignore[arg-type]

    def names(self) -> list[str]:
        return [served.name for served in self.fleet.state.current() if served.stage is Stage.SERVING]


def problem(rig: Rig, served: Deployment) -> str:
    [settled] = [action for action in rig.seen if isinstance(action, Settled) and action.deployment is served]
    assert settled.problem is not None
    return settled.problem.code


def test_a_model_starts_at_once_where_there_is_room() -> None:
    rig = Rig()
    served = rig.want("a", 60)
    assert [action.replica.deployment for action in rig.of(Start)] == [served]
    rig.load(served)
    assert [(action.deployment, action.problem) for action in rig.of(Settled)] == [(served, None)]


def test_the_oldest_leaves_and_only_when_it_is_gone_the_next_one_starts() -> None:
    rig = Rig()
    first, second = rig.serve("first", 40), rig.serve("second", 40)
    new = rig.want("new", 40)
    [evicted] = rig.of(Evicted)
    assert evicted.deployment is first
    assert (first.stage, second.stage) == (Stage.LEAVING, Stage.SERVING)
    assert new.stage is Stage.WAITING
    assert rig.tick() == []
    rig.leave(first)
    rig.tick()
    assert new.stage is Stage.SERVING


def test_a_model_with_work_stays_and_goes_when_it_is_done() -> None:
    rig = Rig()
    busy = rig.serve("busy", 60)
    busy.replicas[0].row.start([1], rig.now + 30)
    new = rig.want("new", 60)
    assert rig.tick() == []
    assert new.stage is Stage.WAITING
    busy.replicas[0].row.finish(0)
    busy.used = rig.now
    rig.tick()
    assert busy.stage is Stage.LEAVING


def test_who_waits_too_long_for_room_gets_507_with_the_numbers() -> None:
    rig = Rig()
    busy = rig.serve("busy", 60)
    busy.replicas[0].row.queued = 1
    new = rig.want("new", 60)
    rig.tick(PATIENCE + 0.1)
    assert problem(rig, new) == OutOfMemory.code
    [settled] = [action for action in rig.of(Settled) if action.deployment is new]
    assert "60 MiB of the 100 MiB" in settled.problem.message
    assert rig.fleet.state.get("new") is None


def test_what_can_never_fit_gets_507_at_once() -> None:
    rig = Rig()
    assert problem(rig, rig.want("huge", 101)) == OutOfMemory.code
    rig.serve("pinned", 60, pin=True)
    rig.serve("platform", 20, Owner.PLATFORM)
    assert problem(rig, rig.want("new", 30)) == OutOfMemory.code
    assert rig.names() == ["pinned", "platform"]


def test_who_came_first_gets_room_first() -> None:
    rig = Rig()
    busy = rig.serve("busy", 100)
    busy.replicas[0].row.queued = 1
    large, small = rig.want("large", 90), rig.want("small", 20)
    busy.replicas[0].row.queued = 0
    rig.tick()
    rig.leave(busy)
    rig.tick()
    assert (large.stage, small.stage) == (Stage.SERVING, Stage.WAITING)


def test_who_came_first_gets_room_on_a_gpu_first() -> None:
    rig = Rig(host=1000, devices={"cuda:0": 100, "cuda:1": 50})

    def want(name: str, device: str, size: int) -> Deployment:
        cost = Cost(MIB, MIB, size * MIB)
        served = rig.fleet.add(model(name, device=device), rig.now, Owner.STORE, rig.now + 10, cost)
        rig.tick()
        return served

    busy = want("busy", "cuda:0", 80)
    rig.load(busy)
    rig.tick(2.0)
    busy.replicas[0].row.queued = 1
    large, named, small = want("large", "auto", 90), want("named", "cuda:1", 40), want("small", "auto", 15)
    assert (large.stage, named.stage, small.stage) == (Stage.WAITING, Stage.SERVING, Stage.WAITING)
    busy.replicas[0].row.queued = 0
    rig.tick()
    rig.leave(busy)
    rig.tick()
    assert (large.stage, small.stage) == (Stage.SERVING, Stage.WAITING)


def test_a_fresh_model_stays_until_those_who_asked_for_it_could_come() -> None:
    rig = Rig()
    fresh = rig.want("fresh", 60)
    rig.load(fresh)
    rig.want("new", 60)
    rig.tick(0.5)
    assert fresh.stage is Stage.SERVING
    rig.tick(1.0)
    assert fresh.stage is Stage.LEAVING


def test_the_measured_cost_replaces_the_estimate_and_is_remembered() -> None:
    rig = Rig()
    served = rig.want("a", 60)
    rig.load(served, memory=10)
    assert [action.deployment for action in rig.of(Learned)] == [served]
    assert served.memory() == 10 * MIB
    rig.want("b", 90)
    assert len(rig.of(Start)) == 2


def test_a_model_that_grows_beyond_the_budget_makes_the_oldest_leave() -> None:
    rig = Rig()
    old, grown = rig.serve("old", 40), rig.serve("grown", 40)
    grown.used = rig.now
    grown.replicas[0].row.stamp_memory(70 * MIB, 70 * MIB, 0)
    rig.tick(1.0)
    assert rig.of(Learned) == [], "what a load needs is not what traffic made of it"
    assert (old.stage, grown.stage) == (Stage.LEAVING, Stage.SERVING)


def test_a_failed_load_leaves_nothing_behind() -> None:
    rig = Rig()
    served = rig.want("bad", 60)
    [replica] = served.replicas
    rig.fleet.workers.forked(replica.row.index, replica.epoch, 7)
    rig.act(rig.fleet.load_failed(replica.row.index, replica.epoch, "ValueError: no", False))
    rig.exit(replica)
    assert problem(rig, served) == ModelFailed.code
    assert rig.fleet.state.get("bad") is None
    assert list(rig.fleet.state.everything()) == []
    assert rig.of(Gone) == [Gone(served)]


def test_more_replicas_than_there_are_rows_is_507_at_once_with_the_numbers() -> None:
    rig = Rig(host=100_000)
    for name in "abc":
        rig.serve(name, 3, replicas=256)
    last = rig.want("last", 3, replicas=256)
    rig.want("more", 3)
    assert rig.names() == ["a", "b", "c", "last"]
    [settled] = [action for action in rig.of(Settled) if action.deployment.name == "more"]
    assert settled.problem.code == OutOfMemory.code
    assert "1024" in settled.problem.message
    rig.act(rig.fleet.leave(last, rig.now))
    rig.leave(last)
    assert rig.want("more", 3).stage is Stage.SERVING


def test_a_pin_that_changed_with_the_model_holds_and_one_that_did_not_leaves_the_callers_alone() -> None:
    rig = Rig(host=200)
    served = rig.serve("a", 10)
    for pin, wanted in ((True, True), (False, False)):
        rig.load(rig.want("a", 10, pin=pin))
        served = rig.fleet.state.get("a")
        assert served.pinned is wanted
    served.pinned = True  # by the API
    rig.load(rig.want("a", 10))
    assert rig.fleet.state.get("a").pinned


def wear_out(rig: Rig, served: Deployment) -> None:
    """A replica that was ready ends, and none after it comes so far."""
    rig.exit(served.ready()[0])
    for _ in range(200):
        for replica in served.replicas:
            if replica.status is Status.STARTING:
                replica.error = "ValueError: no"
                rig.exit(replica)
                break
        rig.tick(0.1)


def test_a_model_of_the_store_that_can_start_no_more_leaves_and_tells_why() -> None:
    rig = Rig()
    served = rig.serve("a", 60)
    rig.seen.clear()
    wear_out(rig, served)
    assert problem(rig, served) == ModelFailed.code
    assert rig.of(Gone) == [Gone(served)]
    assert rig.fleet.state.get("a") is None


def test_one_that_the_platform_has_loaded_stays_and_says_so() -> None:
    rig = Rig()
    served = rig.serve("a", 60, Owner.PLATFORM)
    wear_out(rig, served)
    assert "ValueError: no" in (rig.fleet.state.placement("a").failed or "")


def test_a_model_of_the_store_stays_while_one_of_its_replicas_serves() -> None:
    rig = Rig()
    served = rig.serve("a", 30, replicas=2)
    rig.seen.clear()
    wear_out(rig, served)
    assert (len(served.ready()), rig.of(Gone)) == (1, [])
    rig.exit(served.ready()[0])
    assert problem(rig, served) == ModelFailed.code
    assert rig.of(Gone) == [Gone(served)]


def test_a_load_that_runs_out_of_memory_is_tried_once_more_with_one_model_less() -> None:
    rig = Rig()
    other = rig.serve("other", 20)
    served = rig.want("hungry", 60)
    [replica] = served.replicas
    rig.exit(replica, out_of_memory=True)
    assert other.stage is Stage.LEAVING
    assert served.stage is Stage.WAITING
    rig.tick()
    assert len(rig.of(Start)) == 2, "not before the other one is gone"
    rig.leave(other)
    rig.tick()
    [replica] = served.replicas
    rig.exit(replica, out_of_memory=True)
    assert problem(rig, served) == OutOfMemory.code
    assert rig.fleet.state.get("hungry") is None


def test_what_a_dying_process_holds_counts_though_its_model_waits_again() -> None:
    rig = Rig(devices={"cuda:0": 100})
    other = rig.serve("other", 20)
    one = model("hungry", replicas=2, device="cuda:0")
    served = rig.fleet.add(one, rig.now, Owner.STORE, rig.now + 10, Cost(30 * MIB, 30 * MIB, 45 * MIB))
    served.devices = ("cuda:0", "cuda:0")
    rig.act(rig.fleet.admit(rig.now))
    dying, short = served.replicas
    rig.act(rig.fleet.end(dying, "it does not answer", rig.now))
    rig.exit(short, out_of_memory=True)
    rig.leave(other)
    assert served.stage is Stage.WAITING
    assert (served.memory(), served.device_memory()) == (30 * MIB + SLACK, {"cuda:0": 45 * MIB})
    next_one = rig.want("next", 5)
    rig.tick()
    everything = list(rig.fleet.state.everything())
    assert served.stage is Stage.WAITING, "it is charged for two processes, and one still holds its memory"
    assert sum(one.memory() for one in everything) <= 100 * MIB
    rig.exit(dying)
    rig.tick()
    assert (served.stage, next_one.stage) == (Stage.SERVING, Stage.SERVING)


def test_out_of_memory_with_nobody_to_send_away_is_507_at_once() -> None:
    rig = Rig()
    served = rig.want("hungry", 60)
    rig.exit(served.replicas[0], out_of_memory=True)
    assert problem(rig, served) == OutOfMemory.code


@pytest.mark.parametrize("said", [Status.STARTING, Status.LOADING, Status.WARMING])
def test_a_lost_fork_server_is_no_fault_of_the_model(said: Status) -> None:
    rig = Rig()
    served = rig.want("a", 60)
    for status in (Status.LOADING, Status.WARMING)[: [Status.STARTING, Status.LOADING, Status.WARMING].index(said)]:
        served.replicas[0].become(status, rig.now)
    rig.act(rig.fleet.lost(served.replicas[0], "the fork server ended", rig.now))
    assert len(rig.of(Start)) == 2
    assert served.stage is Stage.SERVING


def test_a_model_told_to_go_before_it_has_a_process_goes_all_the_same() -> None:
    rig = Rig()
    served = rig.want("a", 60)
    [replica] = served.replicas
    assert Retire(replica) in rig.act(rig.fleet.leave(served, rig.now))
    assert not rig.fleet.workers.wants(replica.row.index, replica.epoch)
    rig.exit(replica)
    assert rig.of(Gone) == [Gone(served)]


def test_a_worker_that_does_not_end_when_told_is_ended() -> None:
    rig = Rig()
    served = rig.serve("a", 60)
    rig.act(rig.fleet.leave(served, rig.now))
    rig.tick(6.0)
    assert served.replicas[0].status is Status.DYING


def test_a_changed_model_takes_over_when_it_is_ready() -> None:
    rig = Rig(host=200)
    old = rig.serve("a", 60)
    new = rig.want("a", 60)
    assert rig.fleet.state.get("a") is old
    assert old.stage is Stage.SERVING
    rig.load(new)
    assert rig.fleet.state.get("a") is new
    assert old.stage is Stage.LEAVING
    assert not rig.fleet.state.placement("a").gone
    assert [address.row for address in rig.fleet.state.placement("a").replicas] == [new.replicas[0].row.index]
    rig.leave(old)
    assert rig.fleet.state.get("a") is new


def test_a_changed_model_that_fails_leaves_the_old_one_and_its_error_shows() -> None:
    rig = Rig(host=200)
    old = rig.serve("a", 60)
    new = rig.want("a", 60)
    rig.fleet.load_failed(new.replicas[0].row.index, new.replicas[0].epoch, "ValueError: broken", False)
    rig.exit(new.replicas[0])
    assert rig.fleet.state.get("a") is old
    assert old.stage is Stage.SERVING
    assert "ValueError: broken" in (old.reload_error or "")


def test_a_successor_that_does_not_fit_beside_the_old_one_is_given_up_at_once_and_blocks_nobody() -> None:
    rig = Rig()
    old = rig.serve("a", 60)
    rig.want("a", 60)
    assert old.stage is Stage.SERVING
    assert "room" in (old.reload_error or "")
    assert rig.want("b", 30).stage is Stage.SERVING


def test_a_worker_with_a_long_last_request_has_its_time_to_close_after_that() -> None:
    rig = Rig()
    served = rig.serve("a", 60)
    [replica] = served.replicas
    replica.row.start([1], rig.now + 60)
    rig.act(rig.fleet.leave(served, rig.now))
    rig.now = time.monotonic() + 100  # the row stamps the real clock
    replica.row.finish(1)
    rig.now = replica.row.last_used + 1
    rig.tick()
    assert replica.status is Status.RETIRING


def test_unloading_takes_the_successor_along() -> None:
    rig = Rig(host=200)
    old = rig.serve("a", 60)
    new = rig.want("a", 60)
    rig.act(rig.fleet.leave(old, rig.now))
    rig.leave(old)
    rig.leave(new)
    assert list(rig.fleet.state.everything()) == []


def test_replicas_are_spread_over_gpus_and_a_replacement_takes_the_place_of_the_dead() -> None:
    rig = Rig(host=1000, devices={"cuda:0": 100, "cuda:1": 100})
    one = model("a", replicas=2, device="auto")
    served = rig.fleet.add(one, rig.now, Owner.STORE, rig.now + 10, Cost(MIB, MIB, 60 * MIB))
    rig.act(rig.fleet.admit(rig.now))
    assert sorted(replica.device for replica in served.replicas) == ["cuda:0", "cuda:1"]
    rig.load(served)
    lost = served.replicas[0]
    rig.exit(lost)
    assert sorted(replica.device for replica in served.replicas) == ["cuda:0", "cuda:1"]


def test_a_hundred_that_wait_behind_a_hundred_that_work_do_not_take_the_supervisors_time() -> None:
    rig, size = Rig(host=1000), 10 * MIB - SLACK
    for number in range(100):
        rig.serve(f"busy{number}", 10).replicas[0].row.queued = 1
    for number in range(100):
        rig.fleet.add(model(f"new{number}"), rig.now, Owner.STORE, rig.now + 100, Cost(size, size))
    started = time.process_time()
    for _ in range(50):  # a second of the supervisor's ticks
        rig.tick(0.02)
    assert time.process_time() - started < 0.5, "65 ms a tick when all was decided at every tick"
    rig.fleet.state.get("busy0").replicas[0].row.queued = 0
    rig.tick(0.2)
    assert [action.deployment.name for action in rig.of(Evicted)] == ["busy0"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["want", "ready", "fail", "oom", "exit", "work", "rest", "tick", "leave"]),
        st.integers(0, 7),
        st.integers(5, 60),
    ),
    max_size=60,
)


def play(rig: Rig, what: str, number: int, size: int) -> None:
    """One step of a story."""
    replicas = rig.fleet.workers.of(Role.SERVING)
    replica = replicas[number % len(replicas)] if replicas else None
    if what == "want" and rig.fleet.state.get(f"m{number}") is None:
        rig.want(f"m{number}", size)
    elif what == "ready" and replica is not None and replica.status is Status.STARTING:
        rig.bring_up(replica)
    elif what in ("fail", "oom") and replica is not None:
        rig.exit(replica, out_of_memory=what == "oom")
    elif what == "exit" and replica is not None and replica.status in (Status.RETIRING, Status.DYING):
        rig.exit(replica)
    elif what == "work" and replica is not None and replica.status is Status.READY:
        replica.row.queued = 1
    elif what == "rest" and replica is not None:
        replica.row.queued = 0
    elif what == "leave" and replica is not None and replica.deployment.stage is not Stage.LEAVING:
        rig.act(rig.fleet.leave(replica.deployment, rig.now))
    rig.tick(size / 20)


@given(steps)
def test_whatever_happens_the_budget_holds_and_there_is_one_load_a_name(
    story: list[tuple[str, int, int]],
) -> None:
    """A replay of any story: what was admitted fits, nobody busy is sent away, all rows come back."""
    rig = Rig(host=100, models=5)
    for what, number, size in story:
        everything = list(rig.fleet.state.everything())
        before = {served.key for served in everything if served.has_work()}
        seen = len(rig.seen)
        play(rig, what, number, size)
        assert sum(served.memory() for served in rig.fleet.state.everything()) <= 100 * MIB
        held = [served for served in rig.fleet.state.everything() if served.stage is not Stage.WAITING]
        assert len(held) <= 5
        names = [served.name for served in rig.fleet.state.everything() if served.stage is not Stage.LEAVING]
        assert len(names) == len(set(names))
        assert not [one for one in rig.seen[seen:] if isinstance(one, Evicted) and one.deployment.key in before]
    for served in list(rig.fleet.state.everything()):
        if served.stage is not Stage.LEAVING:
            rig.act(rig.fleet.leave(served, rig.now))
        rig.leave(served)
    assert list(rig.fleet.state.everything()) == []
    assert len(rig.of(Gone)) == len({action.deployment.key for action in rig.of(Gone)})
