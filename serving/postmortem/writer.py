"""Writer: the thread that completes reports, logs them and writes their files, so that no disk holds up the supervisor.

It also watches the memory of workers, and keeps the errors of GPUs, which may be seen only after the worker's end.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from serving.deadline import Clock
from serving.system import log

if TYPE_CHECKING:
    from serving.postmortem.curves import MemoryCurves
    from serving.postmortem.report import Report

PERIOD = 1.0  # seconds between looks at the memory of workers
PENDING = 64  # reports that may wait; more are only counted
GPU_WAIT = 1.5  # seconds within which an error of a GPU shows after it has ended a worker
XIDS, BEFORE = 64, 60.0  # errors of GPUs that are kept; seconds before an end in which one may have to do with it
CLOSE_TIME = 3.0  # seconds for the last reports


class Draft(NamedTuple):
    """A report of an end at the instant ``ended``, to be completed once the clock says ``due``; with the ``bodies`` for
    a file of their own, if any.
    """

    report: Report
    ended: float
    due: float
    bodies: Bodies | None = None


class Bodies(Protocol):
    """The bodies of the requests that a dead worker was working on."""

    def recording(self, report: str) -> bytes:
        """Return them in one piece, for the report with this id; b"" where there are none. Raises OSError."""
        ...

    def close(self) -> None: ...


class Folder(Protocol):
    """A place for reports: a ReportFolder."""

    path: Path

    def write(self, id: str, text: bytes, bodies: bytes = b"") -> None: ...


class ReportWriter:
    """The thread that writes reports into ``folder``, if there is one. What it does itself is marked below; all else
    is for the supervisor's thread, and never waits for it.
    """

    def __init__(self, folder: Folder | None = None, clock: Clock = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._curves: MemoryCurves
        self._wake = threading.Event()
        self._drafts: list[Draft] = []
        self._xids: deque[tuple[float, str, int]] = deque(maxlen=XIDS)
        self._pids: tuple[int, ...] = ()
        self._next_sample = 0.0
        self._dropped = 0
        self._has_warned = False
        self._closing = False
        self._thread = threading.Thread(target=self.run, name="reports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch(self, pids: Iterable[int]) -> None:
        """Set the processes whose memory is looked at from now on; at once where there are new ones, which may not live
        for long.
        """
        watched = tuple(pids)
        if watched != self._pids:
            self._pids, self._next_sample = watched, 0.0
            self._wake.set()

    def on_xid(self, device: str, code: int) -> None:
        """Keep an error that a GPU's driver has reported."""
        self._xids.append((self._clock(), device, code))

    def submit(self, report: Report, bodies: Bodies | None = None) -> None:
        """Log a report and write its files, soon. Closes ``bodies``."""
        now = self._clock()
        if self._closing or len(self._drafts) >= PENDING:
            self._dropped += 1
            if bodies is not None:
                bodies.close()
            return
        self._drafts.append(Draft(report, now, now + (GPU_WAIT if report.device.startswith("cuda") else 0.0), bodies))
        self._wake.set()

    def close(self) -> None:
        """Complete what was submitted, within a second; later reports are dropped."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIME)

    # On its own thread.

    def run(self) -> None:
        """Work until closed."""
        self.prepare()
        while not self._closing:
            self.turn(self._clock())
            self._wake.wait(self._rest())
            self._wake.clear()
        self.finish(math.inf)

    def prepare(self) -> None:
        from serving.postmortem.curves import MemoryCurves  # here, beside the start of the server and not before it

        self._curves = MemoryCurves()

    def _rest(self) -> float:
        """Return the seconds until something is due."""
        return max(0.0, min([self._next_sample, *(one.due for one in list(self._drafts))]) - self._clock())

    def turn(self, now: float) -> None:
        """Do what is due at the instant ``now``."""
        if now >= self._next_sample:
            self._next_sample = now + PERIOD
            self._curves.sample(self._pids, now)
        self.finish(now)

    def finish(self, now: float) -> None:
        """Log and write the reports that are due at the instant ``now``."""
        for one in [one for one in list(self._drafts) if one.due <= now]:
            self._finish(one)
            self._drafts.remove(one)

    def _finish(self, draft: Draft) -> None:
        from serving.postmortem.report import BODIES, EVENT

        try:
            recording = self._recording(draft)
            report = self._completed(draft, f"{draft.report.report}{BODIES}" if recording else "")
            log.error(EVENT, **report.fields())
            if self._dropped:
                log.warning("reports were dropped, since too many workers ended at a time", reports=self._dropped)
                self._dropped = 0
            text = report.encode()
        except Exception as exc:
            log.error("a report could not be made", exc=exc)
            return
        self._write(report.report, text, recording)

    def _recording(self, draft: Draft) -> bytes:
        if draft.bodies is None:
            return b""
        if self._folder is None:
            draft.bodies.close()
            return b""
        try:
            return draft.bodies.recording(draft.report.report)
        except OSError as exc:
            log.warning("bodies cannot be read", report=draft.report.report, error=f"{type(exc).__name__}: {exc}")
            return b""

    def _completed(self, draft: Draft, bodies: str) -> Report:
        from serving.postmortem.versions import versions

        report, ended = draft.report, draft.ended
        xids = [
            (round(ended - at, 1), code)
            for at, device, code in list(self._xids)
            if device == report.device and ended - at < BEFORE
        ]
        curve = self._curves.take(report.worker, ended)
        return msgspec.structs.replace(report, curve=curve, xids=xids, versions=versions(), bodies=bodies)

    def _write(self, id: str, text: bytes, bodies: bytes) -> None:
        if self._folder is None:
            return
        try:
            self._folder.write(id, text, bodies)
            self._has_warned = False
        except OSError as exc:
            if not self._has_warned:
                error = f"{type(exc).__name__}: {exc}"
                log.warning("reports cannot be written", folder=str(self._folder.path), error=error)
            self._has_warned = True
