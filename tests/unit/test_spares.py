"""Spares decided: when one starts, who may take it, what is kept for it, and what becomes of those that die."""

from __future__ import annotations

import itertools

from serving.ipc.scoreboard import ROWS, Scoreboard
from serving.model.model import Model
from serving.supervisor.fleet.actions import Dismiss, Spawn
from serving.supervisor.fleet.deployment import Deployment, Owner, WorkerProcess
from serving.supervisor.fleet.devices import Devices
from serving.supervisor.fleet.spares import CONTEXT, CUT, HOST, REFILL, START_TIME, SpareRule, Spares
from serving.supervisor.fleet.workers import Rows, Workers
from serving.supervisor.store.diskcache import Cost
from tests.unit.test_devices import TWO


class Rig:
    def __init__(self, **wanted: int) -> None:
        self.rows = Rows(Scoreboard.create())
        self.workers = Workers(self.rows)
        self.spares = Spares(self.workers)
        self.spares.want({name.replace("_", ":"): count for name, count in wanted.items()})
        self.pids = itertools.count(100)
        self.now = 1000.0

    def tick(self, seconds: float = 0.02, is_loading: bool = False) -> list[Spawn | Dismiss]:
        self.now += seconds
        return self.spares.tick(self.now, is_loading)

    def spawned(self, seconds: float = 0.02, is_loading: bool = False) -> list[WorkerProcess]:
        return [action.spare for action in self.tick(seconds, is_loading) if isinstance(action, Spawn)]

    def up(self, memory: int = 5 << 20, device_memory: int = 0) -> WorkerProcess:
        [spare] = self.spawned()
        self.workers.forked(spare.row.index, spare.epoch, next(self.pids))
        spare.row.stamp_memory(memory, memory, device_memory)
        assert self.spares.ready(spare.row.index, spare.epoch, self.now) is spare
        return spare


def test_as_many_as_wanted_start_one_after_the_other() -> None:
    rig = Rig(cpu=2)
    first = rig.up()
    second = rig.up()
    assert rig.spawned() == []
    assert first.row.index != second.row.index
    assert len(rig.rows) == ROWS - 2


def test_a_spare_starts_when_no_model_loads_or_when_that_takes_long() -> None:
    rig = Rig(cpu=1)
    assert rig.spawned(is_loading=True) == []
    assert rig.spawned(REFILL / 2, is_loading=True) == []
    assert len(rig.spawned(REFILL, is_loading=True)) == 1


def test_only_one_that_is_ready_on_that_device_may_be_taken() -> None:
    rig = Rig(cuda_0=1)
    [spare] = rig.spawned()
    assert rig.spares.ready_on("cuda:0") is None
    rig.workers.forked(spare.row.index, spare.epoch, 7)
    rig.spares.ready(spare.row.index, spare.epoch, rig.now)
    assert rig.spares.ready_on("cuda:1") is None
    assert rig.spares.ready_on("cuda:0") is spare
    spare.cut = rig.now
    assert rig.spares.ready_on("cuda:0") is None, "nobody could tell it"


def test_one_that_is_taken_keeps_its_row_and_another_one_starts() -> None:
    rig = Rig(cpu=1)
    spare = rig.up()
    rig.workers.take_over(spare, served(Owner.START), rig.now)
    assert (len(rig.spares), len(rig.rows)) == (0, ROWS - 1)
    assert spare not in rig.spares.all()
    assert rig.workers.by_pid(spare.pid or 0) is spare
    assert len(rig.spawned()) == 1


def test_one_that_dies_is_replaced_and_those_that_never_get_ready_are_not_in_a_tight_loop() -> None:
    rig = Rig(cpu=1)
    rig.spares.exited(rig.up(), rig.now)
    starts = 0
    for _ in range(3000):  # a minute
        for spare in rig.spawned():
            starts += 1
            rig.spares.exited(spare, rig.now)
    assert 3 <= starts <= 6
    rig.now += 30
    assert rig.up().pid is not None
    assert len(rig.rows) == ROWS - 1


def test_one_that_hangs_or_has_lost_us_is_ended() -> None:
    rig = Rig(cpu=1)
    [slow] = rig.spawned()
    rig.workers.forked(slow.row.index, slow.epoch, 7)
    assert rig.tick(START_TIME) == []
    assert rig.tick(1.0) == [Dismiss(slow)]
    assert rig.tick() != [Dismiss(slow)], "once"
    assert not rig.workers.wants(slow.row.index, slow.epoch)
    rig.spares.exited(slow, rig.now)
    rig.now += 60
    lost = rig.up()
    lost.cut = rig.now
    assert Dismiss(lost) not in rig.tick(CUT - 0.1)
    assert Dismiss(lost) in rig.tick(0.2)


def test_those_on_a_device_that_is_not_wanted_any_more_go() -> None:
    rig = Rig(cuda_0=1, cuda_1=1)
    first, second = rig.up(), rig.up()
    rig.spares.want({"cuda:1": 1})
    assert rig.tick() == [Dismiss(first)]
    assert rig.spares.ready_on("cuda:1") is second


def test_at_the_end_all_go_and_none_comes() -> None:
    rig = Rig(cpu=2)
    spare = rig.up()
    [starting] = rig.spawned()
    assert rig.spares.close(rig.now) == [Dismiss(spare), Dismiss(starting)]
    rig.spares.exited(spare, rig.now)
    rig.spares.exited(starting, rig.now)
    assert (len(rig.spares), rig.tick(100.0)) == (0, [])


def test_what_is_kept_for_them_is_what_they_were_measured_to_take() -> None:
    rig = Rig(cuda_0=2, cuda_1=1)
    assert rig.spares.charge() == (3 * HOST, {"cuda:0": 2 * CONTEXT, "cuda:1": CONTEXT})
    rig.up(6 << 20, 300 << 20)
    assert rig.spares.charge() == (3 * (6 << 20), {"cuda:0": 2 * (300 << 20), "cuda:1": CONTEXT})


def served(owner: Owner, device: str = "auto", env: dict[str, str] | None = None) -> Deployment:
    model = Model("m", "/m", "/m/code", "a:B", 60.0, 1, device, 1, 100, env=env or {})
    return Deployment(1, model, 1, owner, Cost(1, 1), 0.0)


def test_by_default_there_is_one_on_each_gpu_and_none_on_a_cpu() -> None:
    rule = SpareRule(None, "auto")
    assert rule([], Devices(TWO)) == {"cuda:0": 1, "cuda:1": 1}
    assert rule([], Devices()) == {}
    assert SpareRule(2, "auto")([], Devices()) == {"auto": 2}
    assert SpareRule(None, "cpu")([], Devices(TWO)) == {}
    assert SpareRule(None, "cuda:1")([], Devices(TWO)) == {"cuda:1": 1}
    assert SpareRule(0, "auto")([], Devices(TWO)) == {}


def test_they_are_where_the_one_model_is_and_nowhere_for_one_that_cannot_use_them() -> None:
    one = served(Owner.START)
    one.devices = ("cuda:1", "cuda:1")
    assert SpareRule(None, "auto")([one], Devices(TWO)) == {"cuda:1": 1}
    assert SpareRule(1, "auto")([served(Owner.START, "cpu")], Devices(TWO)) == {"cpu": 1}
    assert SpareRule(1, "auto")([served(Owner.START, env={"A": "b"})], Devices()) == {}
    one.failed = "cuda:1 was taken out"
    assert SpareRule(1, "auto")([one], Devices(TWO)) == {}
