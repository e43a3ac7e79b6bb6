"""Doors: where a forked child of a handler's streaming or async code may return into the worker's."""

from __future__ import annotations

from typing import Any

from serving.worker.engine.streams import conversations
from serving.worker.engine.streams.asyncgenerators import AsyncGenerators
from serving.worker.engine.streams.endings import Endings
from serving.worker.engine.streams.loop import Watched
from serving.worker.engine.streams.stream import Stream
from serving.worker.engine.streams.tasks import Tasks

# What the worker calls next after each kind of user call, whether that returned or raised: see ``worker.strays``.
STREAM_DOORS: list[tuple[Any, list[str]]] = [
    (Stream, ["take"]),
    (Endings, ["fail", "finish"]),
    (AsyncGenerators, ["_aclose"]),
    (Tasks, ["_forget"]),
    (Watched, ["select"]),
    (conversations, ["close_of"]),
]
