"""Doors: where a forked child of a handler's code may return into the engine."""

from __future__ import annotations

from typing import Any

from serving.worker.engine import decoding, failures
from serving.worker.engine.batches import Batches
from serving.worker.engine.calls import Calls
from serving.worker.engine.computing import Computing
from serving.worker.engine.encoding import ReplyEncoder
from serving.worker.engine.handover import Handover
from serving.worker.engine.sessionhooks import SessionHooks
from serving.worker.engine.streams.streamdoors import STREAM_DOORS

# What the engine calls next after each kind of user call, whether that returned or raised: see ``worker.strays``.
ENGINE_DOORS: list[tuple[Any, list[str]]] = [
    (Handover, ["settle"]),
    (Batches, ["_encode", "_recover"]),
    (ReplyEncoder, ["encode"]),
    (Computing, ["check"]),
    (SessionHooks, ["_close"]),
    (Calls, ["_start", "again", "finish"]),
    (decoding, ["Decoded"]),
    (failures, ["chosen_error"]),
    *STREAM_DOORS,
]
