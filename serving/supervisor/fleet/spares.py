"""Spares: processes that have opened a device and wait for a model; how many there are, and where. Decides, never acts.

A spare that is given a model becomes one of its replicas, with its row and its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving.supervisor.fleet.actions import Dismiss, Spawn
from serving.supervisor.fleet.deployment import Deployment, Owner, Role, Status, WorkerProcess
from serving.supervisor.fleet.devices import Devices
from serving.supervisor.fleet.workers import Workers

ON_GPU, ON_CPU = 1, 0  # defaults: a CUDA context takes long to create, a process does not
START_TIME = 60.0  # seconds for a spare to open its device
REFILL = 1.0  # seconds for which a load may keep the next spare from starting
BACKOFF = (0.0, 1.0, 5.0, 30.0)  # seconds before the next start, by the spares in a row that never became ready
HOST = 8 << 20  # bytes of a spare's own memory until one is measured
CONTEXT = 512 << 20  # bytes of a CUDA context until one is measured
CUT = 1.0  # seconds that a waiting worker may live without its control connection


@dataclass(frozen=True, slots=True)
class SpareRule:
    """The rule for spares. ``each`` is the setting, None if not set; ``device`` is where models without a device go."""

    each: int | None
    device: str

    def __call__(self, everything: Iterable[Deployment], devices: Devices) -> dict[str, int]:
        """Return the number of spares by device: where a server's only model is, or wherever one of many models may be
        placed.
        """
        single = [one for one in everything if one.owner is Owner.START]
        places = devices.homes(self.device)
        if single:
            deployment, model = single[0], single[0].model
            of_use = deployment.failed is None and not model.env and model.gpus == 1
            places = list(dict.fromkeys(deployment.devices)) or devices.homes(model.device) if of_use else []
        counts = {name: self._count(name in devices) for name in places}
        return {name: count for name, count in counts.items() if count}

    def _count(self, is_gpu: bool) -> int:
        if self.each is not None:
            return self.each
        return ON_GPU if is_gpu else ON_CPU


class Spares:
    """The spares among the ``workers``."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._wanted: dict[str, int] = {}
        self._missing_since: dict[str, float] = {}
        self._failures = 0
        self._next_start = 0.0
        self._host = HOST
        self._device_memory: dict[str, int] = {}
        self._closed = False

    # Lookups.

    def __len__(self) -> int:
        return self._workers.count(Role.SPARE)

    def all(self) -> list[WorkerProcess]:
        return self._workers.of(Role.SPARE)

    def charge(self) -> tuple[int, Mapping[str, int]]:
        """Return the bytes of host memory, and of each GPU, that are kept for the wanted spares."""
        host = self._host * sum(self._wanted.values())
        return host, {name: self._device_memory.get(name, CONTEXT) * n for name, n in self._wanted.items()}

    def context(self) -> int:
        """Return the bytes of a GPU that a process takes without a model, as measured where there was a spare."""
        return max(self._device_memory.values(), default=CONTEXT)

    def ready_on(self, device: str) -> WorkerProcess | None:
        """Return a spare on this device that may be given a model, or None."""
        return next((one for one in self.all() if one.device == device and one.may_take_over), None)

    # The wanted number, starts and ends.

    def want(self, wanted: Mapping[str, int]) -> None:
        self._wanted = dict(wanted)

    def close(self, now: float) -> list[Dismiss]:
        """End all spares and start no more."""
        self._closed = True
        return [self._dismiss(one, now) for one in self.all() if one.is_wanted]

    def tick(self, now: float, is_loading: bool) -> list[Spawn | Dismiss]:
        """Return what is due. Missing spares start one after the other, and wait for a short load of a model, which is
        more urgent.
        """
        spares = self.all()
        actions: list[Spawn | Dismiss] = [self._dismiss(one, now) for one in spares if self._is_useless(one, now)]
        if self._closed or now < self._next_start or any(one.status is Status.STARTING for one in spares):
            return actions
        for device, count in self._wanted.items():
            # A dismissed spare counts until it has ended, since it holds its memory until then.
            if sum(one.device == device for one in spares) >= count:
                self._missing_since.pop(device, None)
                continue
            since = self._missing_since.setdefault(device, now)
            if len(self._workers.rows) and (not is_loading or now > since + REFILL):
                return [*actions, Spawn(self._workers.start(Role.SPARE, device, now))]
        return actions

    def _is_useless(self, spare: WorkerProcess, now: float) -> bool:
        if not spare.is_wanted or spare.pid is None:
            return False
        late = spare.status is Status.STARTING and now > spare.started + START_TIME
        lost = spare.cut is not None and now > spare.cut + CUT
        return late or lost or not self._wanted.get(spare.device)

    def _dismiss(self, spare: WorkerProcess, now: float) -> Dismiss:
        spare.become(Status.DYING, now)
        return Dismiss(spare)

    # The spares' reports.

    def ready(self, row: int, epoch: int, now: float) -> WorkerProcess | None:
        """Record that a spare has opened its device; its row has its memory. Returns the spare, None where it is not
        expected.
        """
        spare = self._workers.find(row, epoch, Role.SPARE)
        if spare is None or spare.status is not Status.STARTING:
            return None
        spare.become(Status.READY, now)
        self._failures = 0
        self._host = max(spare.row.memory, 1)
        if spare.row.device_memory:
            self._device_memory[spare.device] = spare.row.device_memory
        return spare

    def exited(self, spare: WorkerProcess, now: float) -> None:
        """Handle the end of a spare's process, or a failed fork."""
        self._workers.ended(spare, now)
        if spare.status is Status.STARTING:
            self._failures += 1
            self._next_start = now + BACKOFF[min(self._failures, len(BACKOFF) - 1)]
