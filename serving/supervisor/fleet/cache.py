"""The LRU cache's policy: whether a model may be loaded now, and which others go for it. Pure.

Least recently used first, and only what is idle: a model with work, in the middle of its load or pinned stays. What is
told to go still counts until its processes have ended, so that the budget holds at every moment.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MIB = 1 << 20


class Stay(enum.Enum):
    IDLE = "idle"  # may go now
    BUSY = "busy"  # works or loads; may go later
    LEAVING = "leaving"  # its memory is on the way back
    FIXED = "fixed"  # pinned, or loaded by the platform, which alone unloads it


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that holds memory: ``host`` bytes, and ``devices`` bytes on each GPU. ``last_used`` orders residents."""

    key: int
    host: int
    last_used: float
    stay: Stay
    devices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Need:
    """A model that wants in: ``host`` and ``device`` bytes of each of its ``replicas``.

    ``where`` is ``cpu``, ``cuda:N``, or ``auto`` for whichever GPU has the most room.
    """

    host: int
    device: int = 0
    replicas: int = 1
    where: str = "cpu"


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of host memory, bytes of each GPU that models may use, and how many models there may be (None: any)."""

    host: int
    devices: Mapping[str, int] = field(default_factory=dict)
    models: int | None = None


@dataclass(frozen=True, slots=True)
class Admit:
    """Load now; ``devices`` names one for each replica, and is empty where there is nothing to choose."""

    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evict:
    """Tell these residents to go, in this order, then ask again."""

    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """There will be room when others have gone or are idle; ``why`` has the numbers."""

    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """There will be no room, whatever becomes idle."""

    why: str


Decision = Admit | Evict | Wait | Refuse


def decide(need: Need, residents: Sequence[Resident], budget: Budget) -> Decision:
    placed = place(need, residents, budget)
    if placed is not None:
        return Admit(placed)
    staying = [one for one in residents if one.stay is not Stay.LEAVING]
    if place(need, staying, budget) is not None:
        return Wait(numbers(need, residents, budget))
    victims = choose(need, staying, budget)
    if victims is not None:
        return Evict(victims)
    fixed = [one for one in residents if one.stay is Stay.FIXED]
    why = numbers(need, residents, budget)
    return Wait(why) if place(need, fixed, budget) is not None else Refuse(why)


def choose(need: Need, staying: list[Resident], budget: Budget) -> tuple[int, ...] | None:
    """The least recently used idle residents that make room together; None if all of them do not."""
    if place(need, [one for one in staying if one.stay is not Stay.IDLE], budget) is None:
        return None
    victims: list[int] = []
    for victim in by_age(staying):
        if not helps(victim, need, staying, budget):
            continue
        victims.append(victim.key)
        staying = [one for one in staying if one is not victim]
        if place(need, staying, budget) is not None:
            return tuple(victims)
    return None


def helps(victim: Resident, need: Need, staying: Sequence[Resident], budget: Budget) -> bool:
    """Whether it holds something of what is short: nobody goes for memory that another GPU lacks."""
    if budget.models is not None and len(staying) >= budget.models:
        return True
    if host_free(staying, budget) < need.host * need.replicas:
        return victim.host > 0
    wanted = budget.devices if need.where == "auto" else (need.where,)
    return any(victim.devices.get(name, 0) for name in wanted)


def place(need: Need, residents: Sequence[Resident], budget: Budget) -> tuple[str, ...] | None:
    """A device for each replica, each time the one with the most room; None where it does not fit beside these."""
    if budget.models is not None and len(residents) >= budget.models:
        return None
    if host_free(residents, budget) < need.host * need.replicas:
        return None
    free = device_free(need, residents, budget)
    if not free:
        return ()
    chosen: list[str] = []
    for _ in range(need.replicas):
        name = max(free, key=lambda name: free[name])
        free[name] -= need.device
        if free[name] < 0:
            return None
        chosen.append(name)
    return tuple(chosen)


def expect(need: Need, residents: Sequence[Resident], budget: Budget) -> dict[str, int]:
    """Bytes on each GPU that one who waits will take: where it can be one day, and of these where most room is now."""
    now = device_free(need, residents, budget)
    ever = device_free(need, [one for one in residents if one.stay is Stay.FIXED], budget)
    taken: dict[str, int] = {}
    for _ in range(need.replicas):
        large = [name for name in ever if ever[name] >= need.device]
        if large:
            name = max(large, key=lambda name: now[name])
            now[name], ever[name] = now[name] - need.device, ever[name] - need.device
            taken[name] = taken.get(name, 0) + need.device
    return taken


def excess(residents: Sequence[Resident], budget: Budget) -> tuple[int, ...]:
    """Who goes because models have grown beyond the budget: the least recently used idle ones, as many as it takes."""
    staying = [one for one in residents if one.stay is not Stay.LEAVING]
    victims: list[int] = []
    for victim in by_age(staying):
        over = [name for name, total in budget.devices.items() if on_device(name, staying) > total]
        short = host_free(staying, budget) < 0
        if not short and not over:
            break
        if short or any(victim.devices.get(name, 0) for name in over):
            victims.append(victim.key)
            staying = [one for one in staying if one is not victim]
    return tuple(victims)


def by_age(residents: Sequence[Resident]) -> list[Resident]:
    """Those that are idle, the least recently used first."""
    return sorted((one for one in residents if one.stay is Stay.IDLE), key=lambda one: (one.last_used, one.key))


def on_device(name: str, residents: Sequence[Resident]) -> int:
    return sum(one.devices.get(name, 0) for one in residents)


def device_free(need: Need, residents: Sequence[Resident], budget: Budget) -> dict[str, int]:
    """Bytes on each GPU that it may be on; empty where there is none to choose."""
    names = budget.devices if need.where == "auto" else {need.where} & budget.devices.keys()
    return {name: budget.devices[name] - on_device(name, residents) for name in names}


def host_free(residents: Sequence[Resident], budget: Budget) -> int:
    return budget.host - sum(one.host for one in residents)


def numbers(need: Need, residents: Sequence[Resident], budget: Budget) -> str:
    """What is wanted, what there is and who holds it, in one line."""
    held = {stay: sum(one.host for one in residents if one.stay is stay) for stay in Stay}
    parts = [f"it needs {mib(need.host * need.replicas)} of the {mib(budget.host)} for models"]
    parts += [f"{mib(size)} {stay.value}" for stay, size in held.items() if size]
    if budget.models is not None and len(residents) >= budget.models:
        parts.append(f"{len(residents)} of {budget.models} models")
    for name, total in budget.devices.items():
        parts.append(
            f"{mib(on_device(name, residents))} of {mib(total)} on {name}, {mib(need.device)} needed for a replica"
        )
    return ", ".join(parts)


def mib(size: int) -> str:
    return f"{-(-size // MIB):,} MiB"
