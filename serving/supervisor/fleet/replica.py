"""Replica and Served: the records of the fleet's books, and the actions that the fleet asks the supervisor for.

A replica is the life of one process: a killed one is followed by a new one.

    STARTING → LOADING → WARMING → READY → RETIRING ─┐
        └─────────┴─────────┴────────┴──── DYING ────┴→ (exit: forgotten)

A served model waits for room, is served, and leaves when it is evicted, unloaded, replaced or cannot be loaded:

    WAITING → SERVING → LEAVING → (last replica's exit: forgotten)
        └──────────────────┴→
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from serving.ipc.messages import Paths, Problem
from serving.ipc.scoreboard import Row
from serving.model.model import Model
from serving.supervisor.fleet.spares import Dismiss, Spawn
from serving.supervisor.fleet.warmtier import Discard
from serving.supervisor.store.diskcache import Cost

CLOSE_TIME = 5.0  # seconds for an idle worker to retire
PARK_TIME = 60.0  # seconds for a worker to move its weights to the host
LEAVE_TIME = 330.0  # seconds for a worker with streams to retire; the platform waits 350 for its memory
SLACK = 2 << 20  # bytes that a process may grow by between two looks, mostly with its first requests
CRASH_LIMIT = 10  # deaths within CRASH_WINDOW up to which workers are replaced at once


class Status(enum.Enum):
    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DYING = "dying"
    RETIRING = "retiring"


LIVE = frozenset({Status.STARTING, Status.LOADING, Status.WARMING, Status.READY})
NEXT = {
    Status.STARTING: {Status.LOADING, Status.DYING, Status.RETIRING},
    Status.LOADING: {Status.WARMING, Status.DYING, Status.RETIRING},
    Status.WARMING: {Status.READY, Status.DYING, Status.RETIRING},
    Status.READY: {Status.DYING, Status.RETIRING},
    Status.RETIRING: {Status.DYING},
    Status.DYING: set(),
}


class Owner(enum.Enum):
    """The origin of a model's load, which decides who may unload the model."""

    START = "start"  # the one model of a single-model server
    STORE = "store"  # a client's TargetModel
    PLATFORM = "platform"  # POST /models


class Stage(enum.Enum):
    WAITING = "waiting"
    SERVING = "serving"
    LEAVING = "leaving"


@dataclass(slots=True, eq=False)
class Replica:
    """One worker process. ``started`` is the instant it was asked for, ``since`` that of its last change of status,
    ``overdue`` that of an unanswered request, ``cut`` that of the end of its control connection.

    ``raised``: its load has raised an error. ``was_spare``: its process already ran; ``was_parked``: with this model.
    ``parks``: it is moving to the warm tier.
    """

    served: Served
    device: str
    row: Row
    epoch: int
    started: float
    since: float
    status: Status = Status.STARTING
    pid: int | None = None
    error: str | None = None
    raised: bool = False
    out_of_memory: bool = False
    overdue: float | None = None
    cut: float | None = None
    was_spare: bool = False
    was_parked: bool = False
    parks: bool = False

    @property
    def name(self) -> str:
        return self.served.model.name

    @property
    def owes_a_reason(self) -> bool:
        """Whether it has neither served yet nor reported why it cannot."""
        return self.status in (Status.STARTING, Status.LOADING, Status.WARMING) and not self.error

    def overstays(self, now: float) -> bool:
        """Return whether a retiring worker has had its time: a little when it is idle, longer with streams."""
        idle_since = max(self.since, self.row.last_used)
        if self.row.streams:
            return now > self.since + LEAVE_TIME
        return now > idle_since + (PARK_TIME if self.parks else CLOSE_TIME) and not self.row.has_work

    def become(self, status: Status, now: float) -> None:
        if status not in NEXT[self.status]:
            raise ValueError(f"a replica cannot go from {self.status.value} to {status.value}")
        self.status, self.since = status, now


@dataclass(slots=True, eq=False)
class Served:
    """One model and its replicas. ``failures`` counts the starts in a row that never became ready, ``refusals`` those
    of them whose load raised an error.

    ``cost`` is the memory of one replica; ``is_guessed``: it is an estimate from the size of the files.
    ``wanted_until`` is the latest instant until which a request waits for room. ``devices`` are those of its replicas,
    where we choose them. ``held_up`` has, by GPU, the instant since which the next start waits for a dead worker's
    memory; ``no_spare``: the next worker is a new process, since a spare died with the model.
    """

    key: int
    model: Model
    queue_size: int
    owner: Owner
    cost: Cost
    used: float
    stage: Stage = Stage.WAITING
    wanted_until: float = 0.0
    pinned: bool = False
    is_guessed: bool = False
    devices: tuple[str, ...] = ()
    replicas: list[Replica] = field(default_factory=list)
    failures: int = 0
    refusals: int = 0
    next_start: float = 0.0
    was_ready: bool = False
    last_ready: float = 0.0
    failed: str | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=CRASH_LIMIT))
    problem: Problem | None = None
    predecessor: Served | None = None
    reload_error: str | None = None
    made_room: bool = False
    after: int | None = None
    tried: str | None = None
    batch_size: int = 0
    paths: Paths = field(default_factory=Paths)
    waits: bool = False
    held_up: dict[str, float] = field(default_factory=dict)
    no_spare: bool = False

    @property
    def name(self) -> str:
        return self.model.name

    def live(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.status in LIVE]

    def ready(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.status is Status.READY]

    def missing(self) -> list[str]:
        """Return a device for each missing replica."""
        live = self.live()
        left = list(self.devices or (self.model.device,) * self.model.replicas)
        for replica in live:
            if replica.device in left:
                left.remove(replica.device)
        return left[: max(0, self.model.replicas - len(live))]

    def device_need(self) -> int:
        """Return the bytes that its next replica will take on a GPU, 0 while none was ever ready there."""
        return max(self.cost.device, max((one.row.device_memory for one in self.replicas), default=0))

    def learn(self, row: Row) -> bool:
        """Take a replica's measured memory as the cost; returns False where that is no news."""
        measured = Cost(row.memory, row.peak, row.device_memory)
        self.is_guessed = False
        if abs(measured.peak - self.cost.peak) <= self.cost.peak // 20 and measured.host <= self.cost.host:
            return False
        self.cost = measured
        return True

    def memory(self) -> int:
        """Return the host bytes that the model is charged with."""
        if self.stage is Stage.WAITING:
            return 0
        each = self.cost.host if self.was_ready else self.cost.peak
        return (max(each, self.grown()) + SLACK) * self._count()

    def grown(self) -> int:
        """Return the host bytes of the largest replica, as of the last look."""
        return max((replica.row.memory for replica in self.replicas), default=0)

    def device_memory(self) -> dict[str, int]:
        """Return the bytes that the model is charged with on each GPU."""
        charged: dict[str, int] = {}
        for index in range(self._count() if self.devices and self.stage is not Stage.WAITING else 0):
            name = self.devices[index % len(self.devices)]
            charged[name] = charged.get(name, 0) + self.cost.device
        return charged

    def _count(self) -> int:
        there = len(self.replicas)
        return there if self.stage is Stage.LEAVING else max(there, self.model.replicas)

    def last_used(self) -> float:
        return max([self.used, *(replica.row.last_used for replica in self.replicas)])

    def has_work(self) -> bool:
        return any(replica.row.has_work for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class Start:
    replica: Replica


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the model to the replica's process, a spare or one that has this model parked."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class TakenOut:
    """A GPU is broken; nothing is started on it any more."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Make the worker finish its requests, close its handler and end."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class Park:
    """Make the worker finish its requests, move its weights to the host, and wait."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class Abort:
    """End the worker, with its stacks and ``reason`` in the log."""

    replica: Replica
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    replica: Replica


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell HTTP workers of a change in a model's placement."""

    model: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A load has ended: the model is ready, or there is a problem and it leaves."""

    served: Served
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Evicted:
    served: Served
    reason: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The last process of a model has ended, so its memory is released."""

    served: Served


@dataclass(frozen=True, slots=True)
class Learned:
    """A replica's cost has been measured and should be stored."""

    served: Served


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The container cannot do its work and should end."""

    reason: str


Action = (
    Start
    | Assign
    | Retire
    | Park
    | Abort
    | Kill
    | Publish
    | Settled
    | Evicted
    | Gone
    | Learned
    | GiveUp
    | TakenOut
    | Spawn
    | Dismiss
    | Discard
)
