"""Attribution: the requests that a line of the log belongs to, for lines of user code and about it.

They are read off the stack of the thread that writes the line, where the engine's own calls hold them anyway. So the
engine notes nothing for the log, and a request that logs nothing costs nothing. Threads and tasks that user code starts
have no such call below them, and their lines name no request.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

from serving.request import Request
from serving.worker.engine.batches import Batches
from serving.worker.engine.decoding import decode
from serving.worker.engine.encoding import ReplyEncoder
from serving.worker.engine.entrance import Entrance
from serving.worker.engine.gathering.gathering import Gathering
from serving.worker.engine.gathering.recordbatches import RecordBatches
from serving.worker.engine.sessionhooks import SessionHooks
from serving.worker.engine.streams.asyncgenerators import AsyncGenerators
from serving.worker.engine.streams.conversations import WebSocketRunner
from serving.worker.engine.streams.generators import Generators

MOST = 8  # request ids of a line about a batch
DEPTH = 1000  # calls that are looked through; Python's own limit by default

Locals = Mapping[str, Any]
Calls = dict[CodeType, Callable[[Locals], Sequence[Request]]]


def of_item(found: Locals) -> list[Request]:
    return [found["item"].request]


def of_stream(found: Locals) -> list[Request]:
    return [found["stream"].item.request]


def of_items(name: str) -> Callable[[Locals], list[Request]]:
    return lambda found: [item.request for item in found.get(name, ())]


# The calls of the engine that end in user code, with the local variables that hold the requests. A test has each of
# them write a line.
CALLS: Calls = {
    ReplyEncoder.encode.__code__: of_item,
    AsyncGenerators._pump.__code__: of_stream,
    Batches._encode.__code__: of_items("live"),
    Batches._landed.__code__: of_items("items"),
    Batches._launch.__code__: of_items("live"),
    Batches._recover.__code__: of_items("live"),
    Batches.run.__code__: of_items("live"),
    Entrance._take.__code__: of_item,
    Gathering._split.__code__: of_item,
    Generators._advance.__code__: of_stream,
    Generators._close.__code__: of_stream,
    WebSocketRunner._run.__code__: of_item,
    RecordBatches._encode.__code__: lambda found: [found["request"]],
    RecordBatches._run_batch.__code__: of_items("items"),
    RecordBatches.respond_alone.__code__: lambda found: [found["request"]],
    SessionHooks.after.__code__: of_item,
    SessionHooks.before.__code__: of_item,
    decode.__code__: of_item,
}


def requests() -> Sequence[Request]:
    """Return the requests that the calling thread works on; empty where it works on none, or that is unknown."""
    frame = sys._getframe(1)
    for _ in range(DEPTH):
        if (find := CALLS.get(frame.f_code)) is not None:
            return find(frame.f_locals)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ()


def request_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``request_id``, or for a batch ``request_ids``, at most ``MOST`` of them, and the number of ``requests``.

    A line whose own ``fields`` name its request gets none.
    """
    if "request_id" in fields:
        return {}
    ids = list(dict.fromkeys(one.request_id for one in requests() if one.request_id))
    if len(ids) <= 1:
        return {"request_id": ids[0]} if ids else {}
    return {"request_ids": ids[:MOST], "requests": len(ids)}
