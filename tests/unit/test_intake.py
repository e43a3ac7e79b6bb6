"""A worker that cannot listen ends with a line in the log, and does not wait for requests that cannot come. One that is
told to retire before it can be reached takes none."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from serving.handler import BatchPolicy, Handler
from serving.ipc.messages import Retire, WorkerHello, WorkerPhase
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Phase, Scoreboard
from serving.system import log
from serving.worker.batching.batcher import Batcher
from serving.worker.io.gate import Gate, GateState
from serving.worker.io.intake import Intake
from tests.contracts.build import CONFIG, FOLDER, Replica, settle
from tests.contracts.test_executor import MODEL

ROOT = Path(__file__).parent.parent.parent
LIMIT = 10.0  # seconds for it to end by itself


def listen_in(folder: str) -> None:
    """A worker's connections, with a socket in ``folder``."""
    log.setup("worker", "info", "json")
    row = Scoreboard.create().row(1)
    row.claim(1)
    ours, _theirs = socket.socketpair()
    ours.setblocking(False)
    intake = Intake(MODEL, CONFIG, Runtime(Path(folder)), row, 1, ours, lambda: None, lambda: None)
    intake.io.start(intake.connect)
    batcher = Batcher(BatchPolicy(), 10, bell=intake.reading)
    intake.io.call(intake.open, batcher, cast(Any, None), WorkerPhase(1, 1, "ready"))
    threading.Event().wait(LIMIT)


def test_a_worker_that_cannot_listen_ends_and_says_why(tmp_path: Path) -> None:
    code = f"from tests.unit.test_intake import listen_in; listen_in({str(tmp_path / 'gone')!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 70
    [line] = [json.loads(one) for one in ended.stdout.splitlines()]
    assert line["level"] == "error"
    assert line["message"] == "the worker cannot listen"
    assert "No such file or directory" in json.dumps(line)
    assert ended.stderr == ""


def test_one_that_is_told_to_retire_before_it_listens_never_says_that_it_is_ready() -> None:
    with tempfile.TemporaryDirectory(prefix="i-", dir=FOLDER) as folder:
        asyncio.run(retire_while_opening(Path(folder)))


async def retire_while_opening(folder: Path) -> None:
    replica = Replica(folder, Handler(), 4)
    replica.intake.io.loop = asyncio.get_running_loop()
    await replica.supervisor.take(replica._theirs)
    await replica.intake.connect()
    replica.intake.open(replica.batcher, replica.engine.streams, WorkerPhase(1, 1, "ready"))
    replica.intake._on_word(Retire())
    await settle()
    assert [type(one) for one in replica.supervisor.heard] == [WorkerHello]
    assert replica.row.phase is Phase.RETIRING
    assert replica.batcher.is_done
    await replica.close()
    await settle()


def test_a_gate_opens_closes_and_ends_in_this_order_only() -> None:
    gate = Gate()
    with pytest.raises(ValueError, match="CLOSED does not become RETIRING"):
        gate.become(GateState.RETIRING)
    batcher = Batcher(BatchPolicy(), 10)
    gate.open_for(batcher)
    assert (gate.state, gate.takes, gate.batcher) == (GateState.OPENING, False, batcher)
    gate.become(GateState.OPEN)
    assert gate.takes
    with pytest.raises(ValueError, match="OPEN does not become CLOSED"):
        gate.become(GateState.CLOSED)
    for state in (GateState.RETIRING, GateState.RETIRING, GateState.CLOSED):
        gate.become(state)
        assert not gate.takes
    assert gate.batcher is not batcher
    gate.become(GateState.ENDING)
    with pytest.raises(ValueError, match="ENDING does not become OPENING"):
        gate.open_for(batcher)
