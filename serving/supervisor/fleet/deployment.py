"""Deployment and WorkerProcess: a model that the server is to serve, and the processes that do so or wait to.

A deployment waits for room, is served, and leaves when it is evicted, unloaded, replaced or cannot be loaded. It waits
again where it lost its place. It is forgotten with the exit of its last process.

    WAITING ⇄ SERVING → LEAVING
        └────────────────┘

A worker process has a role and a status. It may exit at any moment, and is then forgotten.

    SPARE      STARTING → READY ─────────────────┬──→ DYING
                   └──────────────────────────────────┘
                                                 │ takes over
    SERVING    STARTING → LOADING → WARMING → READY → PARKING | RETIRING → DYING
                   ↑          (each of the first four → RETIRING, DYING)
                   │ takes over                            │ has moved its weights
    PARKED       READY → RETIRING                          └→ PARKED and READY
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from serving.ipc.messages import Paths, Problem
from serving.ipc.scoreboard import Row
from serving.model.model import Model
from serving.supervisor.fleet.restarts import Restarts
from serving.supervisor.store.diskcache import Cost

CLOSE_TIME = 5.0  # seconds for an idle worker to retire
PARK_TIME = 60.0  # seconds for a worker to move its weights to the host
LEAVE_TIME = 330.0  # seconds for a worker with streams to retire; the platform waits 350 for its memory
SLACK = 2 << 20  # bytes that a process may grow by between two looks, mostly with its first requests


class Role(enum.Enum):
    """The purpose of a worker process."""

    SERVING = "serving"  # it loads or serves a deployment's model
    SPARE = "spare"  # it has opened a device and waits for any model
    PARKED = "parked"  # it keeps the weights of an evicted model in host memory and waits for that model


class Status(enum.Enum):
    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    PARKING = "parking"
    RETIRING = "retiring"
    DYING = "dying"


State = tuple[Role, Status]


def _within(role: Role, *statuses: Status) -> frozenset[State]:
    return frozenset((role, status) for status in statuses)


LIVE = frozenset({Status.STARTING, Status.LOADING, Status.WARMING, Status.READY})
TAKEN = frozenset({(Role.SERVING, Status.STARTING)})
NEXT: dict[State, frozenset[State]] = {
    (Role.SPARE, Status.STARTING): _within(Role.SPARE, Status.READY, Status.DYING),
    (Role.SPARE, Status.READY): _within(Role.SPARE, Status.DYING) | TAKEN,
    (Role.SERVING, Status.STARTING): _within(Role.SERVING, Status.LOADING, Status.RETIRING, Status.DYING),
    (Role.SERVING, Status.LOADING): _within(Role.SERVING, Status.WARMING, Status.RETIRING, Status.DYING),
    (Role.SERVING, Status.WARMING): _within(Role.SERVING, Status.READY, Status.RETIRING, Status.DYING),
    (Role.SERVING, Status.READY): _within(Role.SERVING, Status.PARKING, Status.RETIRING, Status.DYING),
    (Role.SERVING, Status.PARKING): _within(Role.SERVING, Status.DYING) | _within(Role.PARKED, Status.READY),
    (Role.SERVING, Status.RETIRING): _within(Role.SERVING, Status.DYING),
    (Role.PARKED, Status.READY): _within(Role.PARKED, Status.RETIRING) | TAKEN,
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


NEXT_STAGE = {
    Stage.WAITING: {Stage.SERVING, Stage.LEAVING},
    Stage.SERVING: {Stage.WAITING, Stage.LEAVING},
    Stage.LEAVING: set(),
}


class WorkerProcess:
    """One process, which keeps its row and epoch through all of its roles. ``pid`` is None until its fork is reported.

    ``started`` is the instant it was asked for or given a model, ``since`` that of its last change of state,
    ``overdue`` that of an unanswered request, ``cut`` that of the end of its control connection. ``taken_from`` is the
    role in which its process ran before it was given its model, None where it began with that model.

    ``error`` is the reason why its load failed; ``raised``: the load raised it. ``size`` is the bytes of host memory
    that a parked worker keeps.
    """

    __slots__ = (
        "_deployment",
        "_kept",
        "_role",
        "_status",
        "cut",
        "device",
        "epoch",
        "error",
        "out_of_memory",
        "overdue",
        "pid",
        "raised",
        "row",
        "since",
        "size",
        "started",
        "taken_from",
    )

    def __init__(
        self, role: Role, device: str, row: Row, epoch: int, now: float, deployment: Deployment | None = None
    ) -> None:
        self._role = role
        self._status = Status.STARTING
        self._deployment = deployment
        self._kept: Model | None = None
        self.device = device
        self.row = row
        self.epoch = epoch
        self.pid: int | None = None
        self.started = self.since = now
        self.size = 0
        self.cut: float | None = None
        self.taken_from: Role | None = None
        self._begin_load()

    def _begin_load(self) -> None:
        self.overdue: float | None = None
        self.error: str | None = None
        self.raised = False
        self.out_of_memory = False

    # State.

    @property
    def role(self) -> Role:
        return self._role

    @property
    def status(self) -> Status:
        return self._status

    def become(self, status: Status, now: float) -> None:
        """Change the status within its role. Raises ValueError where the table forbids that, as the next two do."""
        self._enter(self._role, status, now)

    def take_over(self, deployment: Deployment, now: float) -> None:
        """Serve a deployment from now on: a process that waited for a model is given one."""
        self.taken_from = self._role
        self._enter(Role.SERVING, Status.STARTING, now)
        self._deployment, self._kept = deployment, None
        self.started = now
        self._begin_load()

    def park(self, now: float) -> None:
        """Wait for the same model from now on, whose weights it keeps in host memory."""
        kept = self.model
        self._enter(Role.PARKED, Status.READY, now)
        self._deployment, self._kept = None, kept
        self.size = max(1, self.row.memory)

    def _enter(self, role: Role, status: Status, now: float) -> None:
        if (role, status) not in NEXT.get((self._role, self._status), ()):
            was = f"{self._role.value} and {self._status.value}"
            raise ValueError(f"a worker that is {was} cannot go on to be {role.value} and {status.value}")
        if self._deployment is not None and self._status is Status.READY:
            self._deployment.last_ready = now
        self._role, self._status, self.since = role, status, now

    # Lookups.

    @property
    def deployment(self) -> Deployment:
        """The deployment that it serves. Raises ValueError where it serves none."""
        if self._deployment is None:
            raise ValueError(f"a {self._role.value} worker serves no model")
        return self._deployment

    @property
    def model(self) -> Model:
        """The model in it. Raises ValueError for a spare, which has none."""
        return self._kept or self.deployment.model

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def is_wanted(self) -> bool:
        """Whether it should go on living."""
        return self._status in LIVE or self._status is Status.PARKING

    @property
    def is_ready(self) -> bool:
        """Whether it has done what its role begins with, and its pid is known."""
        return self._status is Status.READY and self.pid is not None

    @property
    def may_take_over(self) -> bool:
        """Whether it can be given a model: without its control connection nobody could tell it."""
        return self._role is not Role.SERVING and self.is_ready and self.cut is None

    @property
    def owes_a_reason(self) -> bool:
        """Whether it has neither served yet nor reported why it cannot."""
        return self._status in (Status.STARTING, Status.LOADING, Status.WARMING) and not self.error

    def overstays(self, now: float) -> bool:
        """Return whether one that was told to end has had its time: a little when it is idle, longer with streams."""
        idle_since = max(self.since, self.row.last_used)
        if self.row.streams:
            return now > self.since + LEAVE_TIME
        limit = PARK_TIME if self._status is Status.PARKING else CLOSE_TIME
        return now > idle_since + limit and not self.row.has_work


@dataclass(slots=True, eq=False)
class Deployment:
    """One model and its replicas, which are the worker processes that serve it.

    ``cost`` is the memory of one replica; ``is_guessed``: it is an estimate from the size of the files.
    ``wanted_until`` is the latest instant until which a request waits for room; ``waits``: the last decision was to go
    on waiting. ``devices`` are those of its replicas, where we choose them. ``last_ready`` is the instant at which a
    replica last became ready or ceased to be. ``held_up`` has, by GPU, the instant since which the next start waits for
    a dead worker's memory; ``no_spare``: the next worker is a new process, since a spare died with the model.
    """

    key: int
    model: Model
    queue_size: int
    owner: Owner
    cost: Cost
    used: float
    wanted_until: float = 0.0
    pinned: bool = False
    is_guessed: bool = False
    devices: tuple[str, ...] = ()
    replicas: list[WorkerProcess] = field(default_factory=list)
    restarts: Restarts = field(default_factory=Restarts)
    was_ready: bool = False
    last_ready: float = 0.0
    failed: str | None = None
    problem: Problem | None = None
    predecessor: Deployment | None = None
    reload_error: str | None = None
    made_room: bool = False
    after: int | None = None
    batch_size: int = 0
    paths: Paths = field(default_factory=Paths)
    waits: bool = False
    held_up: dict[str, float] = field(default_factory=dict)
    no_spare: bool = False
    _stage: Stage = field(default=Stage.WAITING, init=False)

    @property
    def stage(self) -> Stage:
        return self._stage

    def become(self, stage: Stage) -> None:
        """Change the stage. Raises ValueError where the table forbids that."""
        if stage not in NEXT_STAGE[self._stage]:
            raise ValueError(f"a model that is {self._stage.value} cannot go on to be {stage.value}")
        self._stage = stage

    @property
    def name(self) -> str:
        return self.model.name

    def live(self) -> list[WorkerProcess]:
        return [replica for replica in self.replicas if replica.status in LIVE]

    def ready(self) -> list[WorkerProcess]:
        return [replica for replica in self.replicas if replica.status is Status.READY]

    def lose(self, replica: WorkerProcess, now: float) -> None:
        """Remove a replica whose process is gone."""
        if replica.status is Status.READY:
            self.last_ready = now
        self.replicas.remove(replica)

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
        """Return the host bytes that the model is charged with; while it waits, those of processes that are ending."""
        each = self.cost.host if self.was_ready else self.cost.peak
        return (max(each, self.grown()) + SLACK) * self._count()

    def grown(self) -> int:
        """Return the host bytes of the largest replica, as of the last look."""
        return max((replica.row.memory for replica in self.replicas), default=0)

    def device_memory(self) -> dict[str, int]:
        """Return the bytes that the model is charged with on each GPU."""
        charged: dict[str, int] = {}
        for index in range(self._count() if self.devices else 0):
            name = self.devices[index % len(self.devices)]
            charged[name] = charged.get(name, 0) + self.cost.device
        return charged

    def _count(self) -> int:
        there = len(self.replicas)
        return max(there, self.model.replicas) if self._stage is Stage.SERVING else there

    def last_used(self) -> float:
        return max([self.used, *(replica.row.last_used for replica in self.replicas)])

    def has_work(self) -> bool:
        return any(replica.row.has_work for replica in self.replicas)

    def touch(self, now: float, wanted_until: float) -> None:
        """Record a request that waits for it, until ``wanted_until`` at the latest."""
        self.used = max(self.used, now)
        self.wanted_until = max(self.wanted_until, wanted_until)
