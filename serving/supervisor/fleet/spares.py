"""Spares: processes that have opened a device and wait for a model. Decides, never acts.

STARTING → READY → taken by a replica, which keeps its row and its process
    └────────┴→ ENDING → (exit: forgotten)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from serving.ipc.scoreboard import Row
from serving.supervisor.fleet.rows import Rows

START_TIME = 60.0  # seconds for a spare to open its device
REFILL = 1.0  # seconds for which a load may keep the next spare from starting
BACKOFF = (0.0, 1.0, 5.0, 30.0)  # seconds before the next start, by the spares in a row that never became ready
HOST = 8 << 20  # bytes of a spare's own memory until one is measured
CONTEXT = 512 << 20  # bytes of a CUDA context until one is measured
CUT = 1.0  # seconds that a spare may live without its control connection


class Stage(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"


@dataclass(slots=True, eq=False)
class Spare:
    """One spare. ``started`` is the instant it was asked for, ``cut`` that of the end of its control connection."""

    device: str
    row: Row
    epoch: int
    started: float
    pid: int | None = None
    stage: Stage = Stage.STARTING
    cut: float | None = None

    @property
    def is_there(self) -> bool:
        """Whether it has opened its device and its pid is known."""
        return self.stage is Stage.READY and self.pid is not None


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a process that opens the device and waits."""

    spare: Spare


@dataclass(frozen=True, slots=True)
class Dismiss:
    """End a spare that is not wanted."""

    spare: Spare


class Spares:
    """All spares. They use ``rows`` of the scoreboard, as workers do."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._all: list[Spare] = []
        self._wanted: dict[str, int] = {}
        self._missing_since: dict[str, float] = {}
        self._failures = 0
        self._next_start = 0.0
        self._host = HOST
        self._device_memory: dict[str, int] = {}
        self._closed = False

    # Lookups.

    def __len__(self) -> int:
        return len(self._all)

    def all(self) -> list[Spare]:
        return list(self._all)

    def find(self, row: int, epoch: int) -> Spare | None:
        return next((one for one in self._all if one.row.index == row and one.epoch == epoch), None)

    def wants(self, row: int, epoch: int) -> bool:
        """Return whether the process should go on living."""
        spare = self.find(row, epoch)
        return spare is not None and spare.stage is not Stage.ENDING

    def by_pid(self, pid: int) -> Spare | None:
        return next((one for one in self._all if one.pid == pid), None)

    def charge(self) -> tuple[int, Mapping[str, int]]:
        """Return the bytes of host memory, and of each GPU, that are kept for the wanted spares."""
        host = self._host * sum(self._wanted.values())
        return host, {name: self._device_memory.get(name, CONTEXT) * n for name, n in self._wanted.items()}

    def context(self) -> int:
        """Return the bytes of a GPU that a process takes without a model, as measured where there was a spare."""
        return max(self._device_memory.values(), default=CONTEXT)

    # The wanted number, starts and ends.

    def want(self, wanted: Mapping[str, int]) -> None:
        self._wanted = dict(wanted)

    def close(self) -> list[Dismiss]:
        """End all spares and start no more."""
        self._closed = True
        return [self._dismiss(one) for one in self._all if one.stage is not Stage.ENDING]

    def ready_on(self, device: str) -> Spare | None:
        """Return a spare on this device that may be taken, or None."""
        return next((one for one in self._all if one.device == device and self._may_be_taken(one)), None)

    def take(self, spare: Spare) -> None:
        """Hand a spare over to the caller, row and process."""
        self._all.remove(spare)

    def _may_be_taken(self, spare: Spare) -> bool:
        return spare.is_there and spare.cut is None

    def tick(self, now: float, is_loading: bool) -> list[Spawn | Dismiss]:
        """Return what is due. Missing spares start one after the other, and wait for a short load of a model, which is
        more urgent.
        """
        actions: list[Spawn | Dismiss] = [self._dismiss(one) for one in self._all if self._is_useless(one, now)]
        if self._closed or now < self._next_start or any(one.stage is Stage.STARTING for one in self._all):
            return actions
        for device, count in self._wanted.items():
            # A dismissed spare counts until it has ended, since it holds its memory until then.
            if sum(one.device == device for one in self._all) >= count:
                self._missing_since.pop(device, None)
                continue
            since = self._missing_since.setdefault(device, now)
            if len(self._rows) and (not is_loading or now > since + REFILL):
                return [*actions, self._spawn(device, now)]
        return actions

    def _is_useless(self, spare: Spare, now: float) -> bool:
        if spare.stage is Stage.ENDING or spare.pid is None:
            return False
        late = spare.stage is Stage.STARTING and now > spare.started + START_TIME
        lost = spare.cut is not None and now > spare.cut + CUT
        return late or lost or not self._wanted.get(spare.device)

    def _spawn(self, device: str, now: float) -> Spawn:
        row, epoch = self._rows.claim()
        spare = Spare(device, row, epoch, now)
        self._all.append(spare)
        return Spawn(spare)

    def _dismiss(self, spare: Spare) -> Dismiss:
        spare.stage = Stage.ENDING
        return Dismiss(spare)

    # The spares' reports.

    def forked(self, row: int, epoch: int, pid: int) -> bool:
        spare = self.find(row, epoch)
        if spare is not None:
            spare.pid = spare.row.pid = pid
        return spare is not None

    def ready(self, row: int, epoch: int) -> Spare | None:
        """Record that a spare has opened its device; its row has its memory. Returns the spare, None where it is not
        expected.
        """
        spare = self.find(row, epoch)
        if spare is None or spare.stage is not Stage.STARTING:
            return None
        spare.stage, self._failures = Stage.READY, 0
        self._host = max(spare.row.memory, 1)
        if spare.row.device_memory:
            self._device_memory[spare.device] = spare.row.device_memory
        return spare

    def exited(self, spare: Spare, now: float) -> None:
        """Handle the end of a spare's process, or a failed fork."""
        self._all.remove(spare)
        self._rows.give_back(spare.row)
        if spare.stage is Stage.STARTING:
            self._failures += 1
            self._next_start = now + BACKOFF[min(self._failures, len(BACKOFF) - 1)]
