"""Admission: the memory budget of a store's models, and the fleet's books in the words of the cache's policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from serving.config.config import Config
from serving.errors import ModelError
from serving.ipc.scoreboard import ROWS
from serving.model.model import Model
from serving.supervisor.fleet import cache
from serving.supervisor.fleet.cache import Budget, Decision, Need, Refuse, Resident, Stay, Wait
from serving.supervisor.fleet.devices import ANY
from serving.supervisor.fleet.replica import SLACK, Owner, Served, Stage
from serving.supervisor.store.diskcache import Cost
from serving.system import log, memory
from serving.system.gpus.driver import Gpu

UNLIMITED = 1 << 60  # bytes
PROCESS = 24 << 20  # bytes of a worker with a model so small that it does not count
COPIES = 2  # of a model's file in memory while it is read
AROUND = 1.1  # times its files on a GPU: what a model needs there to compute comes on top
SETTLE = 1.0  # seconds after its load in which a model counts as busy, for those who asked for it to come

Record = Callable[[Need, list[Resident], Budget, Decision], None]


def estimate(model: Model, context: int = 0) -> Cost:
    """What a replica may cost that was never loaded here, from the size of its files. ``context`` bytes of a GPU are
    what a process takes there without a model, 0 where there is no GPU."""
    if model.device == "cpu" or not context:
        return Cost(PROCESS + COPIES * model.size, PROCESS + COPIES * model.size)
    # What goes to a GPU is on the host once, on its way.
    return Cost(PROCESS + model.size, PROCESS + model.size, context + int(AROUND * model.size))


def least(model: Model, cost: Cost) -> Cost:
    """What it takes at any rate, where ``cost`` is a guess: its files, once."""
    size = PROCESS + model.size
    return Cost(min(cost.host, size), min(cost.peak, size), min(cost.device, model.size))


def budget_of(config: Config, base: int, gpus: Iterable[Gpu] = ()) -> Budget:
    """``base`` bytes are what the models' processes share: they are part of the budget, once. So is the warm tier."""
    host = memory.share(config.host_memory, memory.total()) - base - config.warm_tier_bytes
    devices = {gpu.name: memory.share(config.device_memory, gpu.free) for gpu in gpus if gpu.total}
    return Budget(host, devices, min(config.max_models or ROWS, ROWS))


def check_memory(config: Config) -> None:
    """Raises ModelError where the warm tier takes all that models may have."""
    budget = memory.share(config.host_memory, memory.total())
    if config.many and config.warm_tier_bytes >= budget:
        raise ModelError(
            f"warm_tier_bytes is {config.warm_tier_bytes}, but host_memory leaves models {budget} bytes in all"
        )


def log_decision(need: Need, residents: list[Resident], budget: Budget, decision: Decision) -> None:
    """All that it came from, so that it can be made again."""
    kind = type(decision).__name__.lower()
    log.debug("admission", need=need, residents=residents, budget=budget, decision=kind, detail=decision)


class Admission:
    """``record`` hears every decision, but of a wait only its beginning.

    With ``keeps_sessions`` a model that holds some is not evicted.
    """

    def __init__(self, budget: Budget | None = None, record: Record | None = None, keeps_sessions: bool = True) -> None:
        self._keeps_sessions = keeps_sessions
        self._budget = budget or Budget(UNLIMITED)
        self._reserved: tuple[int, Mapping[str, int]] = (0, {})
        self._out: set[str] = set()
        self.record = record
        self.budget = self._left()

    def set_budget(self, budget: Budget) -> None:
        self._budget = budget
        self.budget = self._left()

    def reserve(self, host: int, devices: Mapping[str, int]) -> None:
        """Bytes that are not the models': those of spare processes."""
        if self._reserved != (host, devices):
            self._reserved = host, devices
            self.budget = self._left()

    def forget(self, device: str) -> None:
        """Nothing may be on this GPU any more."""
        self._out.add(device)
        self.budget = self._left()

    def _left(self) -> Budget:
        host, devices = self._reserved
        sizes = {name: size for name, size in self._budget.devices.items() if name not in self._out}
        left = {name: size - devices.get(name, 0) for name, size in sizes.items()}
        return replace(self._budget, host=self._budget.host - host, devices=left)

    def room(self, everything: Sequence[Served], served: Served, gpus: Iterable[str]) -> tuple[dict[str, int], int]:
        """What is left on each of ``gpus`` and what one replica of ``served`` takes of it, by the books: bytes, or
        replicas where there is no budget of bytes.
        """
        if not self.budget.devices:
            places = [replica.device for one in everything for replica in one.replicas]
            return {name: -places.count(name) for name in gpus}, 1
        charged = [one.device_memory() for one in everything]
        totals = {name: self.budget.devices.get(name, 0) for name in gpus}
        return {
            name: size - sum(one.get(name, 0) for one in charged) for name, size in totals.items()
        }, served.cost.device

    def decisions(self, everything: Sequence[Served], now: float) -> Iterator[tuple[Served, Decision]]:
        """What comes of those who wait, in the order of arrival; nothing for one that waits on.

        Each is to be carried out before the next one is asked for: ``everything`` is looked at again.
        """
        ahead: list[Resident] = []
        held: list[Resident] | None = None
        for served in [one for one in everything if one.stage is Stage.WAITING]:
            held = self._residents(everything, now) + ahead if held is None else held
            # One that ran out of memory once waits until its victim is gone.
            if served.after is None or all(one.key != served.after for one in everything):
                decision = self._decide(served, held)
                if not isinstance(decision, Wait) or now > served.wanted_until:
                    yield served, decision
                    held = None
            if served.stage is Stage.WAITING:
                held = self._residents(everything, now) + ahead if held is None else held
                ahead.append(reservation(served, held, self.budget))
                held = [*held, ahead[-1]]

    def _decide(self, served: Served, residents: list[Resident]) -> Decision:
        """Whether ``served``, which waits, may start now beside these: who came before it gets room before it."""
        if served.predecessor is not None:
            # It serves until this one does: there is nothing to wait for, and nobody else should.
            own = served.predecessor.key
            residents = [replace(one, stay=Stay.FIXED) if one.key == own else one for one in residents]
        need = need_of(served)
        decision = cache.decide(need, residents, self.budget)
        if isinstance(decision, Refuse) and served.is_guessed:
            # Too large by a guess is no reason to refuse what was never tried: if there is no room, its load will say.
            served.cost, served.is_guessed = least(served.model, served.cost), False
            need = need_of(served)
            decision = cache.decide(need, residents, self.budget)
        waited, served.waits = served.waits, isinstance(decision, Wait)
        if self.record is not None and not (waited and served.waits):
            self.record(need, residents, self.budget, decision)
        return decision

    def lack(self, everything: Iterable[Served], served: Served, now: float) -> str | None:
        """Why a model that was loaded, and so measured, cannot stay: beside those that never go it is too large. None
        where it may."""
        if served.owner is Owner.START or served.predecessor is not None:
            return None
        others = [one for one in self._residents(everything, now) if one.key != served.key]
        fixed = [one for one in others if one.stay is Stay.FIXED]
        size = max(served.cost.host, served.grown()) + SLACK
        need = replace(need_of(served), host=size)
        return cache.numbers(need, fixed, self.budget) if cache.place(need, fixed, self.budget) is None else None

    def excess(self, everything: Iterable[Served], now: float) -> tuple[int, ...]:
        return cache.excess(self._residents(everything, now), self.budget)

    def oldest(self, everything: Iterable[Served], now: float) -> int | None:
        """The idle model that was used longest ago."""
        idle = [one for one in self._residents(everything, now) if one.stay is Stay.IDLE]
        return min(idle, key=lambda one: (one.last_used, one.key)).key if idle else None

    def _residents(self, everything: Iterable[Served], now: float) -> list[Resident]:
        others = list(everything)
        # A model serves until its successor does.
        replaced = {one.predecessor.key for one in others if one.predecessor is not None}
        return [self._resident(one, one.key in replaced, now) for one in others if one.stage is not Stage.WAITING]

    def _resident(self, served: Served, replaced: bool, now: float) -> Resident:
        stay = stay_of(served, now, self._keeps_sessions)
        stay = Stay.BUSY if replaced and stay is Stay.IDLE else stay
        return Resident(served.key, served.memory(), served.last_used(), stay, served.device_memory())


def stay_of(served: Served, now: float, keeps_sessions: bool = True) -> Stay:
    if served.stage is Stage.LEAVING:
        return Stay.LEAVING
    if served.pinned or served.owner is not Owner.STORE:
        return Stay.FIXED
    settled = served.was_ready and len(served.ready()) == len(served.replicas) == served.model.replicas
    if not settled and served.failed is None:
        return Stay.BUSY
    fresh = now < served.last_ready + SETTLE and not any(replica.row.completed for replica in served.replicas)
    sessions = keeps_sessions and any(replica.row.sessions for replica in served.replicas)
    return Stay.BUSY if fresh or sessions or served.has_work() else Stay.IDLE


def need_of(served: Served) -> Need:
    where = "auto" if served.model.device in ANY else served.model.device
    return Need(served.cost.peak + SLACK, served.cost.device, served.model.replicas, where)


def reservation(served: Served, residents: list[Resident], budget: Budget) -> Resident:
    need = need_of(served)
    devices = cache.expect(need, residents, budget)
    return Resident(served.key, need.host * need.replicas, served.used, Stay.BUSY, devices)
