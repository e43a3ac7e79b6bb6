"""The tables of what a worker process and a deployment may become: nothing else is possible, nobody writes a state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.ipc.scoreboard import ROWS, Scoreboard
from serving.model.model import Model
from serving.supervisor.fleet.deployment import NEXT, NEXT_STAGE, Deployment, Owner, Role, Stage, Status, WorkerProcess
from serving.supervisor.fleet.workers import Rows, Workers
from serving.supervisor.store.diskcache import Cost

MODEL = Model("m", "/m", "/m/code", "a:B", 60.0, 1, "cpu", 1, 100)
STATES = [(role, status) for role in Role for status in Status]
State = tuple[Role, Status]


def deployment() -> Deployment:
    return Deployment(1, MODEL, 1, Owner.STORE, Cost(1, 1), 0.0)


class Rig:
    def __init__(self) -> None:
        self.workers = Workers(Rows(Scoreboard.create()))
        self.served = deployment()

    def start(self, role: Role) -> WorkerProcess:
        return self.workers.start(role, "cpu", 1.0, self.served if role is Role.SERVING else None)

    def turn(self, worker: WorkerProcess, target: State) -> None:
        """Make it what it is to be, by the one way there is."""
        role, status = target
        if role is worker.role:
            worker.become(status, 2.0)
        elif role is Role.SERVING and status is Status.STARTING:
            self.workers.take_over(worker, self.served, 2.0)
        elif role is Role.PARKED and status is Status.READY:
            self.workers.park(worker, 2.0)
        else:
            raise ValueError("there is no such way")


def paths() -> Iterator[list[State]]:
    """The shortest ways to all states that there are."""
    found = [[(Role.SPARE, Status.STARTING)], [(Role.SERVING, Status.STARTING)]]
    seen = {one[0] for one in found}
    for path in found:
        yield path
        for target in sorted(NEXT.get(path[-1], ()), key=STATES.index):
            if target not in seen:
                seen.add(target)
                found.append([*path, target])


def at(path: list[State]) -> tuple[Rig, WorkerProcess]:
    rig = Rig()
    worker = rig.start(path[0][0])
    for state in path[1:]:
        rig.turn(worker, state)
    return rig, worker


@pytest.mark.parametrize("path", list(paths()), ids=lambda path: f"{path[-1][0].value}-{path[-1][1].value}")
def test_a_worker_becomes_what_the_table_says_and_nothing_else(path: list[State]) -> None:
    allowed = NEXT.get(path[-1], frozenset())
    for target in STATES:
        rig, worker = at(path)
        if target in allowed:
            rig.turn(worker, target)
        else:
            with pytest.raises(ValueError, match=r"cannot go on|no such way|serves no model"):
                rig.turn(worker, target)
        now = target if target in allowed else path[-1]
        assert (worker.role, worker.status) == now
        assert rig.workers.find(worker.row.index, worker.epoch, now[0]) is worker
        assert [one for role in Role for one in rig.workers.of(role)] == [worker]
        assert (worker in rig.served.replicas) is (now[0] is Role.SERVING)
        rig.workers.ended(worker, 3.0)
        assert (rig.workers.is_empty, rig.served.replicas, len(rig.workers.rows)) == (True, [], ROWS)


def test_every_state_of_the_table_can_be_reached() -> None:
    reached = {path[-1] for path in paths()}
    assert reached == NEXT.keys() | {state for states in NEXT.values() for state in states}


@pytest.mark.parametrize("first", Stage)
@pytest.mark.parametrize("then", Stage)
def test_a_deployment_becomes_what_the_table_says_and_nothing_else(first: Stage, then: Stage) -> None:
    one = deployment()
    if first is not Stage.WAITING:
        one.become(first)
    if then in NEXT_STAGE[first]:
        one.become(then)
        assert one.stage is then
    else:
        with pytest.raises(ValueError, match="cannot go on"):
            one.become(then)
        assert one.stage is first


def test_nobody_writes_a_state() -> None:
    _, worker = at([(Role.SPARE, Status.STARTING)])
    for one, name, value in (
        (worker, "status", Status.READY),
        (worker, "role", Role.PARKED),
        (deployment(), "stage", Stage.SERVING),
    ):
        with pytest.raises(AttributeError):
            setattr(one, name, value)


def test_a_worker_that_takes_over_begins_anew_with_its_row_and_process() -> None:
    statuses = (Status.STARTING, Status.LOADING, Status.WARMING)
    rig, worker = at([(Role.SERVING, status) for status in statuses])
    rig.workers.forked(worker.row.index, worker.epoch, 7)
    row, epoch = worker.row, worker.epoch
    worker.overdue, worker.error, worker.raised, worker.out_of_memory = 1.0, "no", True, True
    for status in (Status.READY, Status.PARKING):
        worker.become(status, 2.0)
    rig.workers.park(worker, 3.0)
    assert (worker.model, worker.size, rig.workers.by_pid(7)) == (MODEL, 1, worker)
    rig.workers.take_over(worker, rig.served, 4.0)
    assert (worker.row, worker.epoch, worker.pid, worker.taken_from) == (row, epoch, 7, Role.PARKED)
    assert (worker.overdue, worker.error, worker.raised, worker.out_of_memory) == (None, None, False, False)
    assert (worker.started, worker.since) == (4.0, 4.0)
