"""Why a worker died, by its traces; and which line of the handler's code a sampler sees."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.ipc.faults import Fault
from serving.ipc.scoreboard import Phase, Scoreboard
from serving.model.model import Model
from serving.postmortem import blackbox
from serving.postmortem.blackbox import Contents
from serving.postmortem.report import SHOWN, Reason, Seen
from serving.supervisor.fleet.deployment import Deployment, Owner, Role, WorkerProcess
from serving.supervisor.postmortem.examiner import Traces, examine
from serving.supervisor.processes import Exit
from serving.supervisor.store.diskcache import Cost
from serving.usercode import origin
from serving.worker.engine.progressrow import NOTHING
from serving.worker.phasereports import open_box
from serving.worker.sampler import Sampler

MODEL = Model("m", "/m", "/m/code", "a:B", 60.0, 1, "cpu", 1, 100)
STACKS = 'Current thread 0x01 (most recent call first):\n  File "/m/code/a.py", line 7 in predict\n'


def worker(phase: Phase = Phase.READY, role: Role = Role.SERVING, memory_error: bool = False) -> WorkerProcess:
    row = Scoreboard.create().row(3)
    row.claim(9)
    row.phase = phase
    deployment = Deployment(1, MODEL, 100, Owner.START, Cost(1, 1), 0.0) if role is Role.SERVING else None
    found = WorkerProcess(role, "cuda:0", row, 9, 0.0, deployment)
    found.out_of_memory = memory_error
    return found


def traces(code: int = -signal.SIGSEGV, **fields: object) -> Traces:
    return Traces(Exit(77, code), "so it was")._replace(**fields)


@pytest.mark.parametrize(
    ("reason", "dead", "left"),
    [
        (Reason.CRASH, worker(), traces()),
        (Reason.CRASH, worker(), traces(3)),
        (Reason.CRASH, worker(), traces(0)),
        (Reason.CRASH, worker(Phase.EMPTY, Role.SPARE), traces()),
        (Reason.KILLED, worker(), traces(-signal.SIGKILL)),
        (Reason.OUT_OF_MEMORY, worker(), traces(-signal.SIGKILL, oom_killed=True)),
        (Reason.OUT_OF_MEMORY, worker(Phase.LOADING), traces(-signal.SIGKILL, oom_killed=True)),
        (Reason.OUT_OF_MEMORY, worker(Phase.LOADING, memory_error=True), traces(0)),
        (Reason.FAILED_LOAD, worker(Phase.EMPTY), traces()),
        (Reason.FAILED_LOAD, worker(Phase.LOADING), traces(0)),
        (Reason.FAILED_LOAD, worker(Phase.WARMING), traces(-signal.SIGABRT, aborted="loading took more than 9 s")),
        (Reason.HANG, worker(), traces(-signal.SIGABRT, aborted="a call of its handler took too long")),
        (Reason.HANG, worker(Phase.RETIRING), traces(-signal.SIGKILL, aborted="it was told to end and did not")),
        (Reason.LOST_DEVICE, worker(), traces(74, fault=Fault.STICKY)),
        (Reason.LOST_DEVICE, worker(Phase.LOADING), traces(75, fault=Fault.HARDWARE)),
        (Reason.LOST_DEVICE, worker(), traces(-signal.SIGABRT, aborted="taken out", device_is_out=True)),
    ],
)
def test_the_reason_is_known_by_what_is_left(reason: Reason, dead: WorkerProcess, left: Traces) -> None:
    assert examine(dead, left, "r-1-9").reason is reason


def test_a_report_has_what_is_known_at_once() -> None:
    dead = worker()
    dead.row.start([5, 6], 1.0)
    dead.row.stamp_memory(100, 200, 300)
    box = Contents([Seen(6, "six", "text/plain", 1, 0.5), Seen(4, "four")], place="code/a.py:1 in other", seen=0.2)
    found = examine(dead, traces(box=box, stacks=STACKS, oom_kills=2), "r-1-9")
    assert (found.report, found.worker, found.row, found.epoch) == ("r-1-9", 77, 3, 9)
    assert (found.model, found.device, found.phase) == ("m", "cuda:0", "ready")
    assert (found.signal, found.exit_code, found.cause) == ("SIGSEGV", None, "so it was")
    assert found.running == [Seen(5), Seen(6, "six", "text/plain", 1, 0.5)]
    assert found.last == [Seen(4, "four")]
    assert (found.memory, found.peak, found.device_memory, found.oom_kills) == (100, 200, 300, 2)
    assert (found.where, found.seen) == ("code/a.py:7 in predict", None)


def test_without_stacks_the_line_is_the_one_seen_last() -> None:
    box = Contents(place="code/a.py:1 in other", seen=0.2)
    found = examine(worker(), traces(3, box=box), "r-1-9")
    assert (found.where, found.seen, found.exit_code, found.signal) == ("code/a.py:1 in other", 0.2, 3, None)


def test_a_signal_without_a_name_and_much_of_everything() -> None:
    dead = worker()
    dead.row.start(range(500), 1.0)
    box = Contents([Seen(1000 + number) for number in range(500)])
    found = examine(dead, traces(-63, box=box, stacks="x" * (1 << 20)), "r-1-9")
    assert found.signal is None
    assert [one.id for one in found.running] == list(range(SHOWN))
    assert [one.id for one in found.last] == list(range(1000, 1000 + SHOWN))
    assert len(found.encode()) < 256 << 10, "a line of the log that CloudWatch takes"


HANDLER = "def predict(ready, go_on):\n    ready.set()\n    go_on.wait(30)\n"


def test_a_box_that_cannot_be_made_costs_the_report_and_not_the_worker(tmp_path: Path) -> None:
    assert open_box(tmp_path / "missing" / "box", None) is NOTHING
    assert open_box(tmp_path / "box", tmp_path / "missing" / "ring") is NOTHING
    assert open_box(tmp_path / "another", None) is not NOTHING


@pytest.fixture
def homes() -> Iterator[None]:
    before = list(origin._homes)
    yield
    origin.set_homes(*map(str, before))


def test_a_sampler_sees_the_line_that_runs(tmp_path: Path, homes: None) -> None:
    (tmp_path / "a.py").write_text(HANDLER)
    names: dict[str, object] = {}
    exec(compile(HANDLER, str(tmp_path / "a.py"), "exec"), names)
    row, box = Scoreboard.create().row(0), blackbox.make(tmp_path / "box")
    row.phase = Phase.READY
    ready, go_on = threading.Event(), threading.Event()

    async def look() -> None:
        sampler = Sampler(row, box)
        ready.wait(30)
        sampler.start()
        assert not blackbox.read(tmp_path / "box", time.monotonic()).place, "nothing is announced"
        row.start([1], time.monotonic() + 60)
        sampler.start()
        go_on.set()

    origin.set_homes(str(tmp_path))
    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    names["predict"](ready, go_on)  # type: ignore[operator]
    thread.join(30)
    assert blackbox.read(tmp_path / "box", time.monotonic()).place == "a.py:3 in predict"


def test_what_ran_before_is_no_news(tmp_path: Path, homes: None) -> None:
    row, box = Scoreboard.create().row(0), blackbox.make(tmp_path / "box")
    origin.set_homes(str(Path(__file__).parent))
    seen = []

    async def look() -> None:
        sampler = Sampler(row, box)
        for phase in (Phase.LOADING, Phase.READY):
            row.phase = phase
            sampler.start()
            seen.append(blackbox.read(tmp_path / "box", time.monotonic()).place.partition(":")[0])

    asyncio.run(look())
    assert seen == ["test_examiner.py", ""]
