"""Strays: processes that user code has forked and that come back from it, into code that is the worker's alone.

Such a child holds the worker's sockets and its row of the scoreboard, and would answer requests beside its parent. It
ends where it comes back; the parent's call goes on. What never comes back is left alone: what ``multiprocessing`` or
``subprocess`` start, and a child that ends itself.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from serving.ipc.channel import Channel
from serving.ipc.scoreboard import Row
from serving.system import log
from serving.worker.engine import conversations, decoding, failures
from serving.worker.engine.calls import Calls
from serving.worker.engine.engine import Engine
from serving.worker.engine.loop import Watched
from serving.worker.engine.sessionhooks import SessionHooks
from serving.worker.engine.streams import Stream, Streams
from serving.worker.io.iothread import IoThread
from serving.worker.io.reading import Reading
from serving.worker.server import Worker

# Where a child may come back: what the worker does next after each kind of call, whether it gave something or raised.
DOORS: list[tuple[Any, list[str]]] = [
    (Worker, ["_report", "_fail", "_serve", "_flush"]),
    (IoThread, ["call"]),
    (Engine, ["_answer", "_check_device", "_encode", "_recover", "_settle"]),
    (SessionHooks, ["_close"]),
    (Calls, ["_start", "again", "finish"]),
    (decoding, ["Decoded"]),
    (Stream, ["take"]),
    (Streams, ["_fail", "_finish", "_end", "_forget"]),
    (Watched, ["select"]),
    (conversations, ["close_of"]),
    (failures, ["chosen_error"]),
    (log, ["warning", "error"]),
    (Row, ["start", "renew", "pause", "finish", "hold", "begin", "end", "keep"]),
    (Reading, ["look", "ring", "wait"]),
    (Channel, ["send", "send_now", "send_raw"]),
]


def watch_for() -> None:
    """From now on a child of this process ends where it comes back."""
    for owner, names in DOORS:
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name} is no door"
    os.register_at_fork(after_in_child=close_doors)


def close_doors() -> None:
    """In the child: whatever the worker would do next ends it instead. The parent pays nothing for that."""
    for owner, names in DOORS:
        for name in names:
            setattr(owner, name, leave)


def leave(*_: object, **__: object) -> NoReturn:
    """End as a program would that ends like this, without a word to anybody."""
    exc = sys.exc_info()[1]
    if exc is None:
        os._exit(0)
    code = exc.code if isinstance(exc, SystemExit) else 1
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))
