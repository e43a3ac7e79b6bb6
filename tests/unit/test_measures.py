"""When a worker looks at its memory: now and then while it works, and once when it rests."""

from __future__ import annotations

from serving.ipc.scoreboard import Scoreboard
from serving.worker.io.measures import MEASURE, Measures


def busy() -> None: ...


def idle() -> None: ...


def test_a_worker_that_answers_is_measured_now_and_then_and_once_more_when_it_rests() -> None:
    row = Scoreboard.create().row(0)
    measures = Measures(row, busy, idle)
    assert measures.due(100.0) is None, "it has done nothing yet"
    row.finish(3)
    assert measures.due(101.0) is busy
    row.finish(1)
    assert measures.due(101.0 + MEASURE / 2) is None
    assert measures.due(101.0 + MEASURE) is busy
    assert measures.due(101.0 + 2 * MEASURE) is idle
    assert measures.due(101.0 + 9 * MEASURE) is None
    row.finish(1)
    assert measures.due(101.0 + 10 * MEASURE) is busy


def test_a_worker_with_work_in_hand_does_not_rest() -> None:
    row = Scoreboard.create().row(0)
    measures = Measures(row, busy, idle)
    row.finish(1)
    assert measures.due(100.0) is busy
    row.start([7], until=1e9)
    assert measures.due(100.0 + 2 * MEASURE) is None
    row.finish(0)
    assert measures.due(100.0 + 3 * MEASURE) is idle
