"""Actions: what the fleet asks the supervisor to do, in order."""

from __future__ import annotations

from dataclasses import dataclass

from serving.ipc.messages import Problem
from serving.supervisor.fleet.deployment import Deployment, WorkerProcess


@dataclass(frozen=True, slots=True)
class Start:
    """Fork a process that loads the replica's model."""

    replica: WorkerProcess


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the model to the replica's process, which was a spare or had this model parked."""

    replica: WorkerProcess


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a process that opens the device and waits."""

    spare: WorkerProcess


@dataclass(frozen=True, slots=True)
class Dismiss:
    """End a spare that is not wanted."""

    spare: WorkerProcess


@dataclass(frozen=True, slots=True)
class Retire:
    """Make the worker finish its requests, close its handler and end."""

    replica: WorkerProcess


@dataclass(frozen=True, slots=True)
class Park:
    """Make the worker finish its requests, move its weights to the host, and wait."""

    replica: WorkerProcess


@dataclass(frozen=True, slots=True)
class Discard:
    """Make a parked worker close its handler and end; ``at_once`` leaves it no time for that."""

    parked: WorkerProcess
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """End the worker, with its stacks and ``reason`` in the log."""

    replica: WorkerProcess
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    replica: WorkerProcess


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell HTTP workers of a change in a model's placement."""

    model: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A load has ended: the model is ready, or there is a problem and it leaves."""

    deployment: Deployment
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Evicted:
    deployment: Deployment
    reason: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The last process of a model has ended, so its memory is released."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class Learned:
    """A replica's cost has been measured and should be stored."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class TakenOut:
    """A GPU is broken; nothing is started on it any more."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The container cannot do its work and should end."""

    reason: str


Action = (
    Start
    | Assign
    | Spawn
    | Dismiss
    | Retire
    | Park
    | Discard
    | Abort
    | Kill
    | Publish
    | Settled
    | Evicted
    | Gone
    | Learned
    | TakenOut
    | GiveUp
)
