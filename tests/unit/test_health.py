"""``/ping`` says 200 only if a request could be served."""

from __future__ import annotations

import json

import pytest

from serving.frontend.health import ping
from serving.ipc.scoreboard import Header, Scoreboard, State


@pytest.mark.parametrize(
    ("state", "ready", "unready_for", "status"),
    [
        (State.STARTING, 0, 0, 503),
        (State.LOADING, 0, 0, 503),
        (State.WARMING, 0, 0, 503),
        (State.READY, 1, 0, 200),
        (State.DEGRADED, 0, 29, 200),
        (State.DEGRADED, 0, 31, 503),
        (State.DEGRADED, 1, 300, 200),
        (State.DRAINING, 1, 0, 503),
        (State.FAILED, 0, 0, 503),
    ],
)
def test_each_state_has_its_status(state: State, ready: int, unready_for: float, status: int) -> None:
    now = 1000.0
    got, body = ping(Header(state, now - 5, ready, 2, now - unready_for, "because"), now)
    assert got == status
    said = json.loads(body)
    assert said["status"] == state.name.lower()
    assert said["reason"] == "because"
    assert said["seconds"] == 5.0


def test_a_header_comes_back_from_the_scoreboard_as_it_was_written() -> None:
    board = Scoreboard.create()
    header = Header(State.FAILED, 12.5, 1, 2, 11.5, "naïve reason")
    board.write_header(header)
    assert board.read_header() == header
    board.write_header(header._replace(reason="x" * 10_000))
    assert len(board.read_header().reason) == 255


def test_rows_keep_what_was_running_until_it_is_finished() -> None:
    board = Scoreboard.create()
    row, other = board.row(3), board.row(4)
    row.claim(7)
    row.start(list(range(1024)), 5.0)
    assert row.running() == list(range(1024))
    assert row.busy_until == 5.0
    assert (other.epoch, other.running()) == (0, [])
    row.finish(1024)
    assert (row.running(), row.busy_until, row.completed) == ([], 0.0, 1024)


def test_what_is_kept_runs_beside_each_start_until_it_is_another() -> None:
    row = Scoreboard.create().row(3)
    row.claim(7)
    row.keep(range(100, 700))
    for ids in ([1], [], list(range(50)), [2, 3]):
        row.start(ids, 5.0)
        assert row.running() == [*range(100, 700), *ids]
    row.start(list(range(1000)), 5.0)  # more than there is room for
    assert row.running() == [*range(100, 124), *range(1000)]
    row.start([4], 5.0)
    assert row.running() == [*range(100, 700), 4]
    row.finish(1)
    assert (row.running(), row.busy_until) == ([], 0.0)
    row.keep([8])
    row.start([9], 5.0)
    assert row.running() == [8, 9]


def test_in_flight_counts_all_http_workers() -> None:
    board = Scoreboard.create()
    board.slot(0).in_flight = 2
    board.slot(63).in_flight = 3
    assert board.in_flight() == 5


@pytest.mark.parametrize(("beat", "status"), [(0.0, 200), (995.0, 200), (990.5, 200), (989.0, 503)])
def test_a_supervisor_that_has_not_run_for_long_is_told(beat: float, status: int) -> None:
    got, body = ping(Header(State.READY, 100.0, 1, 1, 100.0, "", beat), 1000.0)
    assert got == status
    assert (json.loads(body).get("reason") == "the supervisor does not run") == (status == 503)


def test_a_beat_and_the_end_are_told_beside_the_header() -> None:
    board = Scoreboard.create()
    assert (board.has_given_up, board.read_header().beat) == (False, 0.0)
    board.stamp_beat()
    board.give_up()
    board.write_header(Header(State.READY, 1.0, 1, 1, 1.0, ""))
    assert board.has_given_up
    assert board.read_header().beat > 0
