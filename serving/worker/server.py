"""Model worker: one replica of one model. Frames in, frames out; knows no HTTP.

Two threads. The main one loads the handler and is the engine; user code runs nowhere else. The other one runs the event
loop of the intake: it talks to the supervisor and to the HTTP workers, and it never touches user code.
"""

from __future__ import annotations

import gc
import os
import socket
import time

from serving import claims
from serving.config.config import Config
from serving.errors import ModelError
from serving.handler import Handler
from serving.ipc.faults import Fault
from serving.ipc.messages import WorkerPhase
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Phase, Row
from serving.model.model import Model
from serving.system import log, memory
from serving.system.devicefaults import is_out_of_memory
from serving.system.memory import held_by, keep_freed, release_freed
from serving.usercode import origin, surroundings
from serving.worker.batching.batcher import Batcher
from serving.worker.device.border import Device
from serving.worker.device.host import Host
from serving.worker.engine import inflating
from serving.worker.engine.engine import Engine
from serving.worker.engine.failures import end_process, show_details
from serving.worker.io.intake import Intake
from serving.worker.loading.loader import create_handler, load, open_device, paths_of, warm
from serving.worker.loading.requirements import prepare
from serving.worker.loading.speed import hasten
from serving.worker.rules import Rules

FLUSH = 4.0  # seconds for the last answers to leave


class Worker:
    """A worker process with its model. The supervisor claimed ``row`` for ``epoch`` and is connected to ``control``."""

    def __init__(
        self, model: Model, config: Config, runtime: Runtime, row: Row, epoch: int, control: socket.socket
    ) -> None:
        self._model = model
        self._config = config
        self._runtime = runtime
        self._row = row
        self._epoch = epoch
        self._device: Device = Host()
        self._intake = Intake(model, config, runtime, row, epoch, control, self._measure, self._measure_idle)

    def run(self) -> None:
        """Serve until retired, and again after each return from parking; then close the handler. Raises nothing."""
        show_details(self._config.local)
        self._intake.io.start(self._intake.connect)
        handler = self._load()
        if handler is None:
            return
        self._serve(handler)
        while self._intake.parking.is_asked and self._park(handler):
            self._serve(handler)
        self._close(handler)

    def _load(self) -> Handler | None:
        try:
            prepare(self._model, self._config.install_requirements)
            handler = create_handler(self._model)
            handler.home = self._runtime.home(self._row.index, self._epoch)
            self._device = open_device(self._model)
            self._report(Phase.LOADING)
            load(handler, self._model, self._device.name)
            self._device.free()  # give back what only the load needed
            # A model of a store must load soon and may be parked in host memory, which one with CUDA graphs cannot.
            alone = not self._config.many
            hastened = hasten(handler, self._model, self._device, self._row.count_recompilation, by_itself=alone)
            self._report(Phase.WARMING)
            warm(handler, self._model, hastened, self._device.name)
        except BaseException as exc:
            permanent = isinstance(exc, ModelError)
            if not permanent:
                log.error("the model failed to load", exc=exc, model=self._model.name)
            self._fail(origin.reason(exc) if permanent else surroundings.told(exc), permanent, is_out_of_memory(exc))
            return None
        return handler

    def _serve(self, handler: Handler) -> None:
        """Take and answer requests until told to retire or to park."""
        room = memory.share(self._config.decoded_memory, memory.total())
        claims.set_limit(max(1, room // max(1, self._model.replicas)))
        inflating.set_limit(self._config.max_body)
        batcher = Batcher(
            handler.policy,
            self._model.queue_size,
            bell=self._intake.reading,
            timeout=self._model.timeout,
            by_priority=handler.prioritizes,
            threads=handler.decode_threads,
            is_awaited=lambda: self._intake.sessions.are_waited_for,
        )
        rules = Rules.of(self._config, self._model.timeout)
        engine = Engine(
            handler,
            batcher,
            self._row,
            self._intake.sides.engine.deliver,
            rules,
            self._device,
            self._lose_device,
            sent=self._intake.sides.engine.settle,
            room=self._intake.sides.engine.make_room,
        )
        keep_freed()  # only now, so that what the load needed is not kept
        self._measure()
        ready = WorkerPhase(
            self._row.index,
            self._epoch,
            "ready",
            queue_size=batcher.queue_size,
            batch_size=batcher.policy.max_size,
            device=self._device.name,
            paths=paths_of(handler),
        )
        self._intake.sessions.takes_requests = not handler.session_requests
        self._intake.sessions.one_by_one = not handler.concurrent_sessions
        self._intake.io.call(self._intake.open, batcher, engine.streams, ready)
        engine.run()

    def _park(self, handler: Handler) -> bool:
        """Move the weights off the device and wait.

        Returns whether the worker is to serve again, with its weights back.
        """
        try:
            self._end_sessions(handler)
            self._intake.io.call(self._intake.part)
            self._intake.sides.connections.flushed.wait(FLUSH)
            come_back = self._device.evacuate()
        except BaseException as exc:
            log.error("the model cannot be parked", exc=exc, model=self._model.name)
            return False
        if come_back is None:
            return False
        self._measure()
        self._tell("parked")
        if not self._intake.parking.wait():
            return False
        self._report(Phase.LOADING)
        started = time.monotonic()
        try:
            come_back()
        except BaseException as exc:
            log.error("the model's weights did not come back", exc=exc, model=self._model.name)
            self._fail(f"{type(exc).__name__}: {exc}"[:500], False, is_out_of_memory(exc))
            os._exit(1)
        gc.freeze()  # the search for the weights unfroze the heap
        log.info("the weights are back", model=self._model.name, seconds=round(time.monotonic() - started, 4))
        self._report(Phase.WARMING)
        return True

    def _end_sessions(self, handler: Handler) -> None:
        for session in self._intake.sessions.open_sessions():
            handler.on_session_close(session)

    def _close(self, handler: Handler) -> None:
        try:
            self._end_sessions(handler)
            handler.close()
        except BaseException as exc:
            log.error("the handler failed to close", exc=exc, model=self._model.name)
        surroundings.leave()
        self._flush(FLUSH)

    def _fail(self, error: str, permanent: bool, out_of_memory: bool) -> None:
        self._tell("failed", error, permanent, out_of_memory)
        self._flush(FLUSH)

    def _lose_device(self, fault: Fault) -> None:
        """End at once, after a second for answers on their way out; the scoreboard says which requests were running."""
        self._flush(1.0)
        end_process(fault)

    def _measure_idle(self) -> None:
        release_freed()
        self._measure()

    def _measure(self) -> None:
        host = held_by("self")
        self._row.stamp_memory(host.private, host.peak, self._device.held())

    # To the loop's thread.

    def _report(self, phase: Phase) -> None:
        self._row.phase = phase
        self._tell(phase.name.lower())

    def _tell(self, phase: str, error: str | None = None, permanent: bool = False, out_of_memory: bool = False) -> None:
        message = WorkerPhase(self._row.index, self._epoch, phase, error, permanent, out_of_memory)
        self._intake.io.call(self._intake.tell, message)

    def _flush(self, seconds: float) -> None:
        self._intake.io.call(self._intake.flush)
        self._intake.sides.connections.flushed.wait(seconds)
