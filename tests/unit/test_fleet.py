"""The fleet decides without acting: starts, kills, back-off, and what the server may say of itself."""

from __future__ import annotations

import itertools

import pytest

from serving.ipc.scoreboard import Phase, Scoreboard, State
from serving.model.model import Model
from serving.supervisor.fleet.actions import Abort, Action, GiveUp, Kill, Publish, Start
from serving.supervisor.fleet.deployment import Role, Status, WorkerProcess
from serving.supervisor.fleet.describe import counts, server_state
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.fleet.workerreports import Progress

LOAD_TIMEOUT = 10.0


def model(replicas: int = 1) -> Model:
    return Model("m", "/m", "/m/code", "a:B", 60.0, replicas, "cpu", 1, 100)


class Rig:
    """A fleet with the parts around it played by the test."""

    def __init__(self, replicas: int = 1) -> None:
        self.board = Scoreboard.create()
        self.fleet = Fleet(self.board, LOAD_TIMEOUT)
        self.fleet.add(model(replicas))
        self.pids = itertools.count(100)
        self.now = 1000.0

    def tick(self, seconds: float = 0.0) -> list[Action]:
        self.now += seconds
        return self.fleet.tick(self.now)

    def fork(self, replica: WorkerProcess) -> int:
        pid = next(self.pids)
        self.fleet.workers.forked(replica.row.index, replica.epoch, pid)
        return pid

    def phase(self, replica: WorkerProcess, status: Status) -> list[Action]:
        replica.row.phase = Phase[status.name]
        return self.fleet.progress(replica.row.index, replica.epoch, Progress(status, 100), self.now)

    def bring_up(self, replica: WorkerProcess) -> int:
        pid = self.fork(replica)
        for status in (Status.LOADING, Status.WARMING, Status.READY):
            self.phase(replica, status)
        return pid

    def up(self) -> WorkerProcess:
        [start] = self.starts(self.tick())
        self.bring_up(start)
        return start

    def starts(self, actions: list[Action]) -> list[WorkerProcess]:
        return [action.replica for action in actions if isinstance(action, Start)]

    def exits(self, replica: WorkerProcess, cause: str = "signal SIGSEGV") -> list[Action]:
        return self.fleet.exited(replica, cause, self.now)

    @property
    def state(self) -> State:
        return server_state(self.fleet.state.everything())[0]


def test_the_wanted_number_of_replicas_is_started_once() -> None:
    rig = Rig(replicas=3)
    assert len(rig.starts(rig.tick())) == 3
    assert rig.tick(1.0) == []


def test_the_state_follows_the_first_replica_up() -> None:
    rig = Rig()
    [replica] = rig.starts(rig.tick())
    seen = [rig.state]
    rig.fork(replica)
    for status in (Status.LOADING, Status.WARMING, Status.READY):
        rig.phase(replica, status)
        seen.append(rig.state)
    assert seen == [State.STARTING, State.LOADING, State.WARMING, State.READY]


@pytest.mark.parametrize("reads", [0, 1, 3])
@pytest.mark.parametrize("how", ["exits", "is ended", "retires", "is lost"])
def test_the_last_instant_with_a_ready_replica_is_that_of_its_end_however_often_anybody_asks(
    how: str, reads: int
) -> None:
    rig = Rig()
    replica = rig.up()

    def ask() -> None:
        for _ in range(reads):
            rig.now += 10.0
            assert counts(rig.fleet.state.everything())[2] <= rig.now
            assert isinstance(rig.state, State)

    ask()
    rig.now = ended = 1100.0
    if how == "exits":
        rig.exits(replica)
    elif how == "is ended":
        rig.fleet.end(replica, "it hangs", rig.now)
    elif how == "retires":
        rig.fleet.retire(rig.now)
    else:
        rig.fleet.lost(replica, "the fork server ended", rig.now)
    ask()
    assert counts(rig.fleet.state.everything()) == (0, 1, ended)


def test_user_code_past_its_deadline_is_ended_and_its_replacement_starts_in_the_same_step() -> None:
    rig = Rig()
    replica = rig.up()
    replica.row.start([1], rig.now + 2)
    assert rig.tick(2.04) == []
    actions = rig.tick(0.02)
    assert isinstance(actions[0], Abort)
    assert actions[0].replica is replica
    assert len(rig.starts(actions)) == 1
    assert rig.state is State.DEGRADED


def test_one_that_survives_the_abort_is_killed_a_second_later() -> None:
    rig = Rig()
    replica = rig.up()
    replica.row.start([1], rig.now)
    rig.tick(0.1)
    assert not any(isinstance(action, Kill) for action in rig.tick(0.9))
    assert [action for action in rig.tick(0.2) if isinstance(action, Kill)] == [Kill(replica)]


def test_a_stopped_worker_that_owes_an_answer_is_replaced() -> None:
    rig = Rig()
    replica = rig.up()
    rig.fleet.workers.overdue(replica.row.index, replica.epoch, rig.now)
    assert rig.tick(0.9) == []
    assert any(isinstance(action, Abort) for action in rig.tick(0.2))


def test_a_worker_whose_heart_beats_is_left_alone_though_a_request_expired_in_its_queue() -> None:
    rig = Rig()
    replica = rig.up()
    rig.fleet.workers.overdue(replica.row.index, replica.epoch, rig.now)
    replica.row.stamp_beat()
    rig.board._floats[replica.row._at + 3] = rig.now + 0.1
    assert rig.tick(60.0) == []


def test_a_worker_that_holds_the_interpreter_within_its_deadline_is_not_taken_for_stopped() -> None:
    rig = Rig()
    replica = rig.up()
    replica.row.start([1], rig.now + 50)
    rig.fleet.workers.overdue(replica.row.index, replica.epoch, rig.now)
    assert rig.tick(40.0) == []


def test_loading_beyond_its_time_is_ended() -> None:
    rig = Rig()
    [replica] = rig.starts(rig.tick())
    rig.fork(replica)
    rig.phase(replica, Status.LOADING)
    assert rig.tick(LOAD_TIMEOUT - 0.1) == []
    [abort, *_] = rig.tick(0.2)
    assert isinstance(abort, Abort)


def test_a_crash_of_a_ready_worker_starts_the_next_at_once() -> None:
    rig = Rig()
    replica = rig.up()
    assert len(rig.starts(rig.exits(replica))) == 1


def test_a_model_that_keeps_failing_backs_off_and_is_declared_failed_after_five() -> None:
    rig = Rig()
    attempts, began = 0, rig.now
    for _ in range(2000):
        for replica in rig.starts(rig.tick(0.05)):
            attempts += 1
            rig.fork(replica)
            rig.exits(replica, "exit code 3")
    assert attempts == 5
    assert rig.now - began > 7
    assert rig.state is State.FAILED
    assert "exit code 3" in server_state(rig.fleet.state.everything())[1]
    placement = rig.fleet.state.placement("m")
    assert placement is not None
    assert placement.failed is not None


def test_a_model_that_crashes_after_ready_again_and_again_is_not_restarted_in_a_tight_loop() -> None:
    rig = Rig()
    starts, replica = 0, rig.up()
    for _ in range(500):  # five seconds
        rig.now += 0.01
        fresh = rig.starts(rig.exits(replica)) if replica in rig.fleet.workers.of(Role.SERVING) else []
        fresh += rig.starts(rig.tick())
        starts += len(fresh)
        if fresh:
            [replica] = fresh
            rig.bring_up(replica)
    assert 10 <= starts <= 16


def test_a_handler_that_can_never_load_gives_up_at_once() -> None:
    rig = Rig()
    [replica] = rig.starts(rig.tick())
    actions = rig.fleet.load_failed(replica.row.index, replica.epoch, "no module", True)
    assert actions == [Publish("m"), GiveUp("no module")]


def test_once_it_has_served_a_permanent_error_is_a_failed_start_like_any_other() -> None:
    rig = Rig()
    replica = rig.up()
    [second] = rig.starts(rig.exits(replica))
    assert rig.fleet.load_failed(second.row.index, second.epoch, "gone", True) == []
    rig.fork(second)
    assert Publish("m") in rig.exits(second)
    assert rig.state is State.DEGRADED


def test_a_freed_row_is_given_out_last_so_that_the_dead_stay_readable() -> None:
    rig = Rig()
    replica = rig.up()
    [second] = rig.starts(rig.exits(replica))
    assert second.row.index != replica.row.index
    assert replica.row.epoch == replica.epoch


def test_a_rows_pid_is_there_as_long_as_the_supervisor_lets_its_worker_live() -> None:
    rig = Rig()
    replica = rig.up()
    assert replica.row.pid == replica.pid
    [second] = rig.starts(rig.exits(replica))
    rig.bring_up(second)
    rig.fleet.end(second, "it hangs", rig.now)
    assert [replica.row.pid, second.row.pid] == [0, 0]


def test_retiring_replicas_are_not_replaced() -> None:
    rig = Rig()
    replica = rig.up()
    assert rig.fleet.retire(rig.now) == [replica]
    assert rig.starts(rig.exits(replica, "exit code 0")) == []
    assert rig.starts(rig.tick(5.0)) == []


def test_a_replica_cannot_go_back() -> None:
    rig = Rig()
    replica = rig.up()
    with pytest.raises(ValueError, match="cannot go"):
        replica.become(Status.LOADING, rig.now)


def test_messages_about_an_earlier_epoch_of_the_row_are_ignored() -> None:
    rig = Rig()
    replica = rig.up()
    rig.fleet.progress(replica.row.index, replica.epoch - 1, Progress(Status.LOADING, 1), rig.now)
    rig.fleet.workers.overdue(replica.row.index, replica.epoch - 1, rig.now)
    assert rig.tick(30.0) == []
    assert rig.state is State.READY
