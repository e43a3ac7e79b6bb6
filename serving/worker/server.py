"""Model worker: one replica of one model. Frames in, frames out; knows no HTTP.

Two threads. The main one loads the handler and is the engine; user code runs nowhere else. The other one runs the event
loop of the intake: it talks to the supervisor and to the HTTP workers, and it never touches user code.
"""

from __future__ import annotations

import gc
import os
import socket
import time

from serving.config.config import Config
from serving.config.settings import OFF
from serving.errors import ModelError
from serving.handler import Handler
from serving.ipc.faults import Fault
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Phase, Row
from serving.metrics import instruments
from serving.metrics.process import ProcessCounts
from serving.model.model import Model
from serving.system import log
from serving.usercode import surroundings
from serving.worker.counts import EngineCounts, NoEngineCounts
from serving.worker.engine.failures import end_process, show_details
from serving.worker.footprint import Footprint
from serving.worker.io.intake import Intake
from serving.worker.loading.bring import bring
from serving.worker.phasereports import FLUSH, PhaseReports
from serving.worker.serve import serve


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
        self._footprint = footprint = Footprint(row)
        measure, measure_idle = footprint.measure, footprint.measure_idle
        region = row.metrics
        self._counts = (NoEngineCounts if config.metrics == OFF else EngineCounts)(region, model.name)
        self._process = ProcessCounts(region, "model")
        instruments.use(region, {"model": model.name}, {"replica": str(row.index)})
        self._intake = Intake(model, config, runtime, row, epoch, control, measure, measure_idle, self._look)
        self._reports = PhaseReports(row, epoch, self._intake)

    def _look(self, now: float) -> None:
        self._counts.look(now)
        self._process.look(now)

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
        model = self._model
        home = self._runtime.home()
        try:
            return bring(model, self._config, home, self._footprint, self._reports, self._counts.recompiled)
        except BaseException as exc:
            if not isinstance(exc, ModelError):
                log.error("the model failed to load", exc=exc, model=model.name)
            self._reports.fail_to_load(exc)
            return None

    def _serve(self, handler: Handler) -> None:
        where = (self._row, self._epoch, self._footprint, self._intake, self._counts)
        serve(handler, self._model, self._config, *where, self._lose_device)

    def _park(self, handler: Handler) -> bool:
        """Move the weights off the device and wait.

        Returns whether the worker is to serve again, with its weights back.
        """
        try:
            self._end_sessions(handler)
            self._intake.io.call(self._intake.part)
            self._intake.sides.connections.flushed.wait(FLUSH)
            come_back = self._footprint.device.evacuate()
        except BaseException as exc:
            log.error("the model cannot be parked", exc=exc, model=self._model.name)
            return False
        if come_back is None:
            return False
        self._footprint.measure()
        self._reports.send("parked")
        if not self._intake.parking.wait():
            return False
        self._reports.enter(Phase.LOADING)
        started = time.monotonic()
        try:
            come_back()
        except BaseException as exc:
            log.error("the model's weights did not come back", exc=exc, model=self._model.name)
            self._reports.fail_to_resume(exc)
            os._exit(1)
        gc.freeze()  # the search for the weights unfroze the heap
        log.info("the weights are back", model=self._model.name, seconds=round(time.monotonic() - started, 4))
        self._reports.enter(Phase.WARMING)
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
        self._reports.flush(FLUSH)

    def _lose_device(self, fault: Fault) -> None:
        """End at once, after a second for answers on their way out; the scoreboard says which requests were running."""
        self._reports.flush(1.0)
        end_process(fault)
