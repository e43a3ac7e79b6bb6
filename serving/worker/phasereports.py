"""PhaseReports: what a worker reports to its supervisor about itself, from the engine's thread."""

from __future__ import annotations

from pathlib import Path

from serving.errors import ModelError
from serving.ipc.messages import WorkerPhase
from serving.ipc.scoreboard import Phase, Row
from serving.postmortem.blackbox import BlackBox, make
from serving.system import log
from serving.system.devicefaults import is_out_of_memory
from serving.usercode import origin, surroundings
from serving.worker.engine.progressrow import NOTHING, Box
from serving.worker.io.intake import Intake
from serving.worker.sampler import Sampler

FLUSH = 4.0  # seconds for the last answers to leave
LONGEST = 500  # characters of an error


def open_box(path: Path, bodies: Path | None) -> Box:
    """Return a new box, which records nothing where its files cannot be made."""
    try:
        return make(path, bodies)
    except OSError as exc:
        log.warning("the report of this worker's end will say little", error=f"{type(exc).__name__}: {exc}")
        return NOTHING


class PhaseReports:
    """The reports of the worker in ``row``, sent by ``intake``; and its ``box``, which is read after its death, in a
    new file at ``path``. The bodies of requests are kept in one at ``bodies``, if any.
    """

    def __init__(self, row: Row, epoch: int, intake: Intake, path: Path, bodies: Path | None = None) -> None:
        self._row = row
        self._epoch = epoch
        self._intake = intake
        self.box = open_box(path, bodies)

    def start(self) -> None:
        """Begin to look at what user code does. The loop must run."""
        if isinstance(self.box, BlackBox):
            self._intake.io.call(Sampler(self._row, self.box).start)

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
