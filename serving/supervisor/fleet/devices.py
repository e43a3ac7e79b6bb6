"""Devices: the books about GPUs: which there are, which are out, and on which the dead still hold memory. Pure.

A server that could not tell which GPUs there are has no books, and leaves the choice to each worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from serving.model.model import Model
from serving.supervisor.fleet.replica import Replica, Served, Status
from serving.system.gpus.driver import Gpu, Xid
from serving.system.gpus.xids import why_broken

RETURN_TIME = 5.0  # seconds for a dead worker's memory to come back before its replacement starts all the same
ANY = ("auto", "cuda")  # what a model says that leaves the choice to us


@dataclass(frozen=True, slots=True)
class Look:
    """What the driver said at one time: ``at`` is when it was first asked; ``held`` lacks what it cannot tell."""

    at: float
    gpus: Mapping[str, Gpu]
    held: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    xids: tuple[Xid, ...] = ()


class Remains(NamedTuple):
    """Of a dead worker, whose memory is not known to be back; ``was_seen``: by the driver, under its number here."""

    ended: float
    was_seen: bool


class Devices:
    """``gpus`` are those there were at the start."""

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
        """The usable ones, as they were at the start."""
        return [self._gpus[name] for name in self.usable]

    # What a worker is told.

    def visible(self, device: str, count: int = 1) -> str | None:
        """``CUDA_VISIBLE_DEVICES`` for a worker; None leaves it as it is. Of ``count`` GPUs the others are the usable
        ones with the most room."""
        if not self._gpus:
            return None
        if device not in self._gpus:
            return ""
        others = [name for name in self.usable if name != device]
        others.sort(key=lambda name: self._free.get(name, 0), reverse=True)
        return ",".join(self._gpus[name].visible for name in (device, *others[: count - 1]))

    def inside(self, device: str, asked: str) -> str:
        """What a worker calls its device, which sees no GPU but its own.

        A model that did not insist finds out for itself whether this torch and driver get on, and else uses the CPU.
        """
        if device not in self._gpus:
            return device
        return "auto" if asked == "auto" else "cuda:0"

    # Placement.

    def homes(self, device: str) -> list[str]:
        """Where a model that says ``device`` may come to be."""
        if device in ANY:
            return self.usable if self._gpus else [device]
        return [] if device in self._out else [device]

    def blocked(self, device: str) -> str | None:
        """Why nothing can run on the ``device`` that a model asks for; None where it can, or where we cannot tell."""
        if device in self._out:
            return f"{device} was taken out: {self._out[device]}"
        if not self._gpus or device == "cpu" or device in self._gpus or (device in ANY and self.usable):
            return None
        if device in ANY:
            return "; ".join(f"{name} was taken out: {why}" for name, why in self._out.items())
        return f"device is {device}, but this server sees {', '.join(self._gpus)}"

    def spread(self, model: Model, room: Mapping[str, int], each: int) -> tuple[str, ...]:
        """A device for each replica: of those that it may be on, each time the one with the most ``room`` left when
        every replica takes ``each``. Empty where there is nothing to choose.
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
        """The same replicas without the GPUs that are out; one that is there once for each GPU does not move."""
        staying = tuple(name for name in devices if name not in self._out)
        if model.per_gpu:
            return staying
        return (*staying, *self.spread(model, room, each)[: len(devices) - len(staying)])

    # What the driver says.

    def take_out(self, device: str, reason: str) -> bool:
        """False if it was out already, or is none of ours."""
        if device not in self._gpus or device in self._out:
            return False
        self._out[device] = reason
        return True

    def saw(self, look: Look) -> list[tuple[str, str]]:
        """Take note of a look; gives the GPUs that it shows to be broken, each with the reason."""
        self._free = {name: gpu.free for name, gpu in look.gpus.items()}
        self._held = look.held
        for (device, pid), one in list(self._remains.items()):
            back = one.was_seen and look.at > one.ended and pid not in look.held.get(device, {})
            if back or look.at > one.ended + RETURN_TIME:
                del self._remains[device, pid]
        broken = [(xid.gpu, why) for xid in look.xids if (why := why_broken(xid.code)) is not None]
        return broken + [(name, "the driver has lost it") for name in self.usable if name not in look.gpus]

    # The memory of the dead.

    def died(self, device: str, pid: int, now: float) -> None:
        """Its memory counts as held until a look that was begun later shows otherwise.

        In a container the driver may know our processes by other numbers, or hide them. Then only room for the next one
        shows that it is back.
        """
        if device in self._gpus and self._gpus[device].total:
            self._remains[device, pid] = Remains(now, pid in self._held.get(device, {}))

    @property
    def awaits(self) -> bool:
        """Whether the next look should come soon."""
        return bool(self._remains)

    def is_taken(self, device: str, dying: bool, need: int) -> bool:
        """Whether a start there should wait: somebody is ``dying`` there or dead and still holds memory, and there is
        not room for ``need`` bytes beside that; 0 is a need that is not known.
        """
        if device not in self._gpus or (need and self._free.get(device, 0) >= need):
            return False
        return dying or any(name == device for name, _ in self._remains)

    def hold_up(self, served: Served, device: str, replicas: Iterable[Replica], now: float) -> bool:
        """Whether the next replica waits for what a dead one has not given back yet; not for long."""
        there = [one for one in replicas if one.device == device]
        dying = any(one.status is Status.DYING for one in there)
        # With others on their way up there what is free now is spoken for.
        alone = all(one.status in (Status.READY, Status.RETIRING, Status.DYING) for one in there)
        if not self.is_taken(device, dying, served.device_need() if alone else 0):
            served.held_up.pop(device, None)
            return False
        if now <= served.held_up.setdefault(device, now) + RETURN_TIME:
            return True
        del served.held_up[device]
        return False
