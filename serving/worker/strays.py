"""Strays: forked children of user code that return into the worker's own code.

Such a child holds the worker's sockets and its row of the scoreboard, and would answer requests beside its parent. It
ends where it returns; the parent's call goes on. A child that never returns is left alone: those of ``multiprocessing``
and ``subprocess``, and one that exits by itself.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from serving.ipc.channel import Channel
from serving.ipc.scoreboard import Row
from serving.system import log
from serving.worker.engine.enginedoors import ENGINE_DOORS
from serving.worker.io.iothread import IoThread
from serving.worker.io.reading import SocketReader
from serving.worker.phasereports import PhaseReports
from serving.worker.server import Worker

# Where a child may return: what the worker calls next after each kind of user call, whether that returned or raised.
DOORS: list[tuple[Any, list[str]]] = [
    (Worker, ["_serve"]),
    (PhaseReports, ["enter", "fail_to_load", "fail_to_resume", "flush"]),
    (IoThread, ["call"]),
    *ENGINE_DOORS,
    (log, ["warning", "error"]),
    (Row, ["start", "renew", "pause", "finish", "hold", "begin", "end", "keep"]),
    (SocketReader, ["look", "ring", "wait"]),
    (Channel, ["send", "send_now", "send_raw"]),
]


def watch_for() -> None:
    """End each later child of this process where it returns into the worker's code."""
    for owner, names in DOORS:
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name} is no door"
    os.register_at_fork(after_in_child=close_doors)


def close_doors() -> None:
    """Replace the worker's next calls by an exit. Runs in the child, so that the parent pays nothing."""
    for owner, names in DOORS:
        for name in names:
            setattr(owner, name, leave)


def leave(*_: object, **__: object) -> NoReturn:
    """Exit silently with the code that a program would have that ends by the current exception."""
    exc = sys.exc_info()[1]
    if exc is None:
        os._exit(0)
    code = exc.code if isinstance(exc, SystemExit) else 1
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))
