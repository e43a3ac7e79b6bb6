"""PhaseReports: what a worker reports to its supervisor about itself, from the engine's thread."""

from __future__ import annotations

from serving.errors import ModelError
from serving.ipc.messages import WorkerPhase
from serving.ipc.scoreboard import Phase, Row
from serving.system.devicefaults import is_out_of_memory
from serving.usercode import origin, surroundings
from serving.worker.io.intake import Intake

FLUSH = 4.0  # seconds for the last answers to leave
LONGEST = 500  # characters of an error


class PhaseReports:
    """The reports of the worker in ``row``, sent by ``intake``."""

    def __init__(self, row: Row, epoch: int, intake: Intake) -> None:
        self._row = row
        self._epoch = epoch
        self._intake = intake

    def enter(self, phase: Phase) -> None:
        """Report that a phase of the worker's life begins."""
        self._row.phase = phase
        self.send(phase.name.lower())

    def send(self, phase: str, error: str | None = None, permanent: bool = False, out_of_memory: bool = False) -> None:
        message = WorkerPhase(self._row.index, self._epoch, phase, error, permanent, out_of_memory)
        self._intake.io.call(self._intake.send, message)

    def fail_to_load(self, exc: BaseException) -> None:
        """Report why the model cannot be loaded. No retry can mend a ModelError."""
        permanent = isinstance(exc, ModelError)
        self._fail(origin.reason(exc) if permanent else surroundings.describe(exc), permanent, is_out_of_memory(exc))

    def fail_to_resume(self, exc: BaseException) -> None:
        """Report why the weights of a parked model cannot come back."""
        self._fail(f"{type(exc).__name__}: {exc}"[:LONGEST], False, is_out_of_memory(exc))

    def _fail(self, error: str, permanent: bool, out_of_memory: bool) -> None:
        self.send("failed", error, permanent, out_of_memory)
        self.flush(FLUSH)

    def flush(self, seconds: float) -> None:
        """Close all connections and wait until what was sent has left, at most so many seconds."""
        self._intake.io.call(self._intake.flush)
        self._intake.sides.connections.flushed.wait(seconds)
