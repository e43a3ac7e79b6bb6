"""Devices: the books about GPUs: which there are, which are out, and where dead workers still hold memory. Pure.

A server that cannot detect its GPUs has no books, and leaves the choice to each worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from serving.model.model import Model
from serving.supervisor.fleet.deployment import Deployment, Status, WorkerProcess
from serving.system.gpus.driver import Gpu, Xid
from serving.system.gpus.xids import why_broken

RETURN_TIME = 5.0  # seconds to wait for a dead worker's memory before its replacement starts anyway
ANY = ("auto", "cuda")  # a model's device that leaves the choice to us
COMING = (Status.STARTING, Status.LOADING, Status.WARMING)


@dataclass(frozen=True, slots=True)
class Look:
    """The driver's answers at one time. ``at`` is the instant before the first question. ``held`` has the bytes of each
    pid, by GPU; GPUs for which the driver does not report this are missing.
    """

    at: float
    gpus: Mapping[str, Gpu]
    held: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    xids: tuple[Xid, ...] = ()


class Remains(NamedTuple):
    """A dead worker whose memory may still be held; ``was_seen``: the driver had listed its pid before."""

    ended: float
    was_seen: bool


class Devices:
    """The GPUs of this server; ``gpus`` are those at the start."""

    def __init__(self, gpus: Iterable[Gpu] = ()) -> None:
        self._gpus = {gpu.name: gpu for gpu in gpus}
        self._free = {gpu.name: gpu.free for gpu in self._gpus.values()}
        self._out: dict[str, str] = {}
        self._held: Mapping[str, Mapping[int, int]] = {}
        self._remains: dict[tuple[str, int], Remains] = {}

    def __contains__(self, device: str) -> bool:
        return device in self._gpus

    @property
    def usable(self) -> list[str]:
        return [name for name in self._gpus if name not in self._out]

    def gpus(self) -> list[Gpu]:
        """Return the usable GPUs, as they were at the start."""
        return [self._gpus[name] for name in self.usable]

    # For a worker's start.

    def visible(self, device: str, count: int = 1) -> str | None:
        """Return ``CUDA_VISIBLE_DEVICES`` for a worker; None leaves it as it is. For ``count`` GPUs the others are the
        usable ones with the most room.
        """
        if not self._gpus:
            return None
        if device not in self._gpus:
            return ""
        others = [name for name in self.usable if name != device]
        others.sort(key=lambda name: self._free.get(name, 0), reverse=True)
        return ",".join(self._gpus[name].visible for name in (device, *others[: count - 1]))

    def inside(self, device: str, asked: str) -> str:
        """Return the device's name inside its worker, which sees no other GPU.

        A model with device "auto" finds out for itself whether this torch and driver work together, and otherwise uses
        the CPU.
        """
        if device not in self._gpus:
            return device
        return "auto" if asked == "auto" else "cuda:0"

    # Placement.

    def homes(self, device: str) -> list[str]:
        """Return the devices on which a model with ``device`` may be placed."""
        if device in ANY:
            return self.usable if self._gpus else [device]
        return [] if device in self._out else [device]

    def blocked(self, device: str) -> str | None:
        """Return why nothing can run on the ``device`` that a model asks for; None where it can, or where that is
        unknown.
        """
        if device in self._out:
            return f"{device} was taken out: {self._out[device]}"
        if not self._gpus or device == "cpu" or device in self._gpus or (device in ANY and self.usable):
            return None
        if device in ANY:
            return "; ".join(f"{name} was taken out: {why}" for name, why in self._out.items())
        return f"device is {device}, but this server sees {', '.join(self._gpus)}"

    def spread(self, model: Model, room: Mapping[str, int], each: int) -> tuple[str, ...]:
        """Return a device for each replica: each time the allowed one with the most ``room`` left, when every replica
        takes ``each``. Empty where there is no choice.
        """
        if not self._gpus:
            return ()
        if model.device not in ANY:
            return (model.device,) * model.replicas
        left = {name: room.get(name, 0) for name in self.usable}
        chosen: list[str] = []
        while left and len(chosen) < model.replicas:
            name = max(left, key=lambda name: left[name])
            left[name] -= each
            chosen.append(name)
        return tuple(chosen)

    def moved(self, devices: Sequence[str], model: Model, room: Mapping[str, int], each: int) -> tuple[str, ...]:
        """Return the replicas' devices without the GPUs that are out; a model with one replica per GPU does not move
        them.
        """
        staying = tuple(name for name in devices if name not in self._out)
        if model.per_gpu:
            return staying
        return (*staying, *self.spread(model, room, each)[: len(devices) - len(staying)])

    # The driver's reports.

    def take_out(self, device: str, reason: str) -> bool:
        """Mark a GPU as out; returns False if it was out already, or is unknown."""
        if device not in self._gpus or device in self._out:
            return False
        self._out[device] = reason
        return True

    def saw(self, look: Look) -> list[tuple[str, str]]:
        """Record a look; returns the GPUs that it shows to be broken, each with the reason."""
        self._free = {name: gpu.free for name, gpu in look.gpus.items()}
        self._held = look.held
        for (device, pid), one in list(self._remains.items()):
            back = one.was_seen and look.at > one.ended and pid not in look.held.get(device, {})
            if back or look.at > one.ended + RETURN_TIME:
                del self._remains[device, pid]
        broken = [(xid.gpu, why) for xid in look.xids if (why := why_broken(xid.code)) is not None]
        return broken + [(name, "the driver has lost it") for name in self.usable if name not in look.gpus]

    # The memory of dead workers.

    def died(self, device: str, pid: int, now: float) -> None:
        """Count a dead worker's memory as held until a later look shows otherwise.

        In a container the driver may know our processes by other pids, or hide them. Then only enough free memory for
        the next worker shows that it is released.
        """
        if device in self._gpus and self._gpus[device].total:
            self._remains[device, pid] = Remains(now, pid in self._held.get(device, {}))

    @property
    def awaits(self) -> bool:
        """Whether the next look should come soon."""
        return bool(self._remains)

    def is_taken(self, device: str, dying: bool, need: int) -> bool:
        """Return whether a start there should wait: a worker is ``dying`` or a dead one still holds memory, and without
        that memory there is no room for ``need`` bytes; 0 means unknown.
        """
        if device not in self._gpus or (need and self._free.get(device, 0) >= need):
            return False
        return dying or any(name == device for name, _ in self._remains)

    def lacks_memory(self, deployment: Deployment, device: str, replicas: Iterable[WorkerProcess]) -> bool:
        """Return whether the next replica should wait for memory that a dead one has not released."""
        there = [one for one in replicas if one.device == device]
        dying = any(one.status is Status.DYING for one in there)
        # Where other replicas are starting, the free memory is theirs.
        alone = not any(one.status in COMING for one in there)
        return self.is_taken(device, dying, deployment.device_need() if alone else 0)
