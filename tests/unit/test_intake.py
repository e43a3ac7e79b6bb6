"""A worker that cannot listen ends with a line in the log, and does not wait for requests that cannot come."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

from serving.handler import BatchPolicy
from serving.ipc.messages import WorkerPhase
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.system import log
from serving.worker.batching.batcher import Batcher
from serving.worker.io.intake import Intake
from tests.contracts.build import CONFIG
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
