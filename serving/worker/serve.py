"""Serve: the time in which a worker takes and answers requests."""

from __future__ import annotations

from collections.abc import Callable

from serving import claims
from serving.config.config import Config
from serving.handler import Handler
from serving.ipc.faults import Fault
from serving.ipc.messages import WorkerPhase
from serving.ipc.scoreboard import Row
from serving.model.model import Model
from serving.system import memory
from serving.worker.batching.batcher import Batcher
from serving.worker.counts import EngineCounts
from serving.worker.engine import inflating
from serving.worker.engine.engine import Engine
from serving.worker.footprint import Footprint
from serving.worker.io.intake import Intake
from serving.worker.loading.loader import paths_of
from serving.worker.rules import Rules


def serve(
    handler: Handler,
    model: Model,
    config: Config,
    row: Row,
    epoch: int,
    footprint: Footprint,
    intake: Intake,
    counts: EngineCounts,
    lost: Callable[[Fault], None],
) -> None:
    """Take and answer requests until told to retire or to park. ``lost`` ends the process that has lost its device."""
    room = memory.share(config.decoded_memory, memory.total())
    claims.set_limit(max(1, room // max(1, model.replicas)))
    inflating.set_limit(config.max_body)
    sessions, sides, device = intake.sessions, intake.sides, footprint.device
    batcher = Batcher(
        handler.policy,
        model.queue_size,
        bell=intake.reading,
        timeout=model.timeout,
        by_priority=handler.prioritizes,
        threads=handler.decode_threads,
        is_awaited=lambda: sessions.are_waited_for,
    )
    rules = Rules.of(config, model.timeout)
    deliver, sent, room_for_more = sides.engine.deliver, sides.engine.settle, sides.engine.make_room
    engine = Engine(handler, batcher, row, deliver, rules, device, lost, sent=sent, room=room_for_more, counts=counts)
    memory.keep_freed()  # only now, so that what the load needed is not kept
    footprint.measure()
    ready = WorkerPhase(
        row.index,
        epoch,
        "ready",
        queue_size=batcher.queue_size,
        batch_size=batcher.policy.max_size,
        device=device.name,
        paths=paths_of(handler),
    )
    sessions.takes_requests = not handler.session_requests
    sessions.one_by_one = not handler.concurrent_sessions
    intake.io.call(intake.open, batcher, engine.streams, ready)
    engine.run()
