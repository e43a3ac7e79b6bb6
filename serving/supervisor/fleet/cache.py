"""Cache: the LRU policy that decides whether a model may be loaded now, and which others are evicted for it. Pure.

The least recently used idle models go first; a model with work, one that loads and a pinned one stay. An evicted model
counts until its processes have ended, so that the budget holds at every moment.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MIB = 1 << 20


class Stay(enum.Enum):
    IDLE = "idle"  # may be evicted now
    BUSY = "busy"  # works or loads; may be evicted later
    LEAVING = "leaving"  # its memory is being released
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
    """A model to load: ``host`` and ``device`` bytes of each of its ``replicas``.

    ``where`` is ``cpu``, ``cuda:N``, or ``auto`` for whichever GPU has the most room.
    """

    host: int
    device: int = 0
    replicas: int = 1
    where: str = "cpu"


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes of host memory and of each GPU that models may use, and the number of models (None: any)."""

    host: int
    devices: Mapping[str, int] = field(default_factory=dict)
    models: int | None = None


@dataclass(frozen=True, slots=True)
class Admit:
    """Load now; ``devices`` names one for each replica, and is empty where there is no choice."""

    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evict:
    """Evict these residents, in this order, then ask again."""

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
    """Return the least recently used idle residents that make enough room, none of them needlessly; None if even all of
    them are not enough.
    """
    if place(need, [one for one in staying if one.stay is not Stay.IDLE], budget) is None:
        return None
    victims: list[Resident] = []
    for victim in by_age(staying):
        if not helps(victim, need, staying, budget):
            continue
        victims.append(victim)
        staying = [one for one in staying if one is not victim]
        if place(need, staying, budget) is not None:
            return tuple(one.key for one in needed(victims, need, staying, budget))
    return None


def needed(victims: list[Resident], need: Need, staying: Sequence[Resident], budget: Budget) -> list[Resident]:
    """Return the victims without those that can stay after all; the most recently used one stays first."""
    left, kept = list(victims), list(staying)
    for victim in reversed(victims):
        if place(need, [*kept, victim], budget) is not None:
            left.remove(victim)
            kept.append(victim)
    return left


def helps(victim: Resident, need: Need, staying: Sequence[Resident], budget: Budget) -> bool:
    """Return whether a resident holds what is short, so that none is evicted for memory of another GPU."""
    if budget.models is not None and len(staying) >= budget.models:
        return True
    if host_free(staying, budget) < need.host * need.replicas:
        return victim.host > 0
    wanted = budget.devices if need.where == "auto" else (need.where,)
    return any(victim.devices.get(name, 0) for name in wanted)


def place(need: Need, residents: Sequence[Resident], budget: Budget) -> tuple[str, ...] | None:
    """Return a device for each replica, each time the one with the most room; None where the model does not fit."""
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
    """Return the bytes on each GPU that a waiting model will take: on GPUs that can ever hold it, those with most room
    now.
    """
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
    """Return the models to evict after growth beyond the budget: the least recently used idle ones, as many as
    needed.
    """
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
    """Return the idle residents, the least recently used first."""
    return sorted((one for one in residents if one.stay is Stay.IDLE), key=lambda one: (one.last_used, one.key))


def on_device(name: str, residents: Sequence[Resident]) -> int:
    return sum(one.devices.get(name, 0) for one in residents)


def device_free(need: Need, residents: Sequence[Resident], budget: Budget) -> dict[str, int]:
    """Return the free bytes of each GPU that the model may use; empty where there is no choice."""
    names = budget.devices if need.where == "auto" else {need.where} & budget.devices.keys()
    return {name: budget.devices[name] - on_device(name, residents) for name in names}


def host_free(residents: Sequence[Resident], budget: Budget) -> int:
    return budget.host - sum(one.host for one in residents)


def numbers(need: Need, residents: Sequence[Resident], budget: Budget) -> str:
    """Return one line with what is needed, what there is and who holds it."""
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
