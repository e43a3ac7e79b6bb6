"""Admission: the memory budget of a store's models, and the fleet's books as input for the cache's policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from serving.config.config import Config
from serving.errors import ModelError
from serving.ipc.scoreboard import ROWS
from serving.model.model import Model
from serving.supervisor.fleet import cache
from serving.supervisor.fleet.cache import Budget, Decision, Need, Refuse, Resident, Stay, Wait
from serving.supervisor.fleet.deployment import SLACK, Deployment, Owner, Stage
from serving.supervisor.fleet.devices import ANY
from serving.supervisor.store.diskcache import Cost
from serving.system import log, memory
from serving.system.gpus.driver import Gpu

UNLIMITED = 1 << 60  # bytes
PROCESS = 24 << 20  # bytes of a worker without its model
COPIES = 2  # of a model's file in memory while it is read
AROUND = 1.1  # memory on a GPU as a multiple of the files' size: computing takes some as well
SETTLE = 1.0  # seconds after its load in which a model counts as busy, until its first requests arrive


def estimate(model: Model, context: int = 0) -> Cost:
    """Return the estimated cost of a replica that was never loaded here, from the size of its files. ``context`` is the
    bytes of a GPU that a process takes without a model, 0 where there is no GPU.
    """
    if model.device == "cpu" or not context:
        return Cost(PROCESS + COPIES * model.size, PROCESS + COPIES * model.size)
    # Weights for a GPU are on the host once, while they are loaded.
    return Cost(PROCESS + model.size, PROCESS + model.size, context + int(AROUND * model.size))


def least(model: Model, cost: Cost) -> Cost:
    """Return the least that a replica can cost where ``cost`` is an estimate: its files, once."""
    size = PROCESS + model.size
    return Cost(min(cost.host, size), min(cost.peak, size), min(cost.device, model.size))


def budget_of(config: Config, base: int, gpus: Iterable[Gpu] = ()) -> Budget:
    """Return the budget. The ``base`` bytes that the models' processes share are subtracted once, and so is the warm
    tier.
    """
    host = memory.share(config.host_memory, memory.total()) - base - config.warm_tier_bytes
    devices = {gpu.name: memory.share(config.device_memory, gpu.free) for gpu in gpus if gpu.total}
    return Budget(host, devices, min(config.max_models or ROWS, ROWS))


def check_memory(config: Config) -> None:
    """Check that the warm tier leaves memory to the models. Raises ModelError."""
    budget = memory.share(config.host_memory, memory.total())
    if config.many and config.warm_tier_bytes >= budget:
        raise ModelError(
            f"warm_tier_bytes is {config.warm_tier_bytes}, but host_memory leaves models {budget} bytes in all"
        )


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision on a waiting model, with what it was made of. ``is_due``: it is to be carried out now, while a wait
    goes on as long as requests do. ``cost`` is what the model was taken to need, which is less than it is booked with
    where that was an estimate that does not fit.
    """

    deployment: Deployment
    decision: Decision
    is_due: bool
    cost: Cost
    need: Need
    residents: list[Resident]
    budget: Budget


def log_ruling(ruling: Ruling) -> None:
    """Log a decision with all of its input, so that it can be reproduced."""
    kind, detail = type(ruling.decision).__name__.lower(), ruling.decision
    need, residents, budget = ruling.need, ruling.residents, ruling.budget
    log.debug("admission", need=need, residents=residents, budget=budget, decision=kind, detail=detail)


class Admission:
    """Decides which models may be loaded. ``record`` is called with every decision, but of a wait only with the first.

    With ``keeps_sessions`` a model with open sessions is not evicted.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        record: Callable[[Ruling], None] = lambda _: None,
        keeps_sessions: bool = True,
    ) -> None:
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
        """Reserve memory for spares and parked workers: ``host`` bytes, and ``devices`` bytes on each GPU."""
        if self._reserved != (host, devices):
            self._reserved = host, devices
            self.budget = self._left()

    def forget(self, device: str) -> None:
        """Remove a GPU from the budget."""
        self._out.add(device)
        self.budget = self._left()

    def _left(self) -> Budget:
        host, devices = self._reserved
        sizes = {name: size for name, size in self._budget.devices.items() if name not in self._out}
        left = {name: size - devices.get(name, 0) for name, size in sizes.items()}
        return replace(self._budget, host=self._budget.host - host, devices=left)

    def room(
        self, everything: Sequence[Deployment], deployment: Deployment, gpus: Iterable[str]
    ) -> tuple[dict[str, int], int]:
        """Return the bytes left on each of ``gpus``, and the bytes that one replica of the deployment takes there, by
        the books; without a budget in bytes, both are numbers of replicas.
        """
        if not self.budget.devices:
            places = [replica.device for one in everything for replica in one.replicas]
            return {name: -places.count(name) for name in gpus}, 1
        charged = [one.device_memory() for one in everything]
        totals = {name: self.budget.devices.get(name, 0) for name in gpus}
        return {
            name: size - sum(one.get(name, 0) for one in charged) for name, size in totals.items()
        }, deployment.cost.device

    def rulings(self, everything: Sequence[Deployment], now: float) -> Iterator[Ruling]:
        """Yield the decisions on waiting models, in the order of arrival.

        Record each decision, and carry it out if it is due, before asking for the next one: ``everything`` is read
        again.
        """
        ahead: list[Resident] = []
        held: list[Resident] | None = None
        for deployment in [one for one in everything if one.stage is Stage.WAITING]:
            if deployment.stage is not Stage.WAITING:
                continue  # it left together with one before it
            held = self._residents(everything, now) + ahead if held is None else held
            # A model that ran out of memory once waits until its victim is gone.
            if deployment.after is None or all(one.key != deployment.after for one in everything):
                ruling = self._rule(deployment, held, now)
                yield ruling
                held = None if ruling.is_due else held
            if deployment.stage is Stage.WAITING:
                held = self._residents(everything, now) + ahead if held is None else held
                ahead.append(reservation(deployment, held, self.budget))
                held = [*held, ahead[-1]]

    def _rule(self, deployment: Deployment, residents: list[Resident], now: float) -> Ruling:
        """Decide whether a waiting model may start beside ``residents``, which include reservations for earlier
        arrivals.
        """
        if deployment.predecessor is not None:
            # The predecessor serves until this model does, so waiting for its memory would be in vain.
            own = deployment.predecessor.key
            residents = [replace(one, stay=Stay.FIXED) if one.key == own else one for one in residents]
        cost, budget = deployment.cost, self.budget
        if deployment.replicas and budget.models is not None:
            budget = replace(budget, models=budget.models + 1)  # its own ending processes are no other model
        need = need_of(deployment, cost)
        decision = cache.decide(need, residents, budget)
        if isinstance(decision, Refuse) and deployment.is_guessed:
            # An estimate is no reason to refuse a model: if there is no room, its load will fail.
            cost = least(deployment.model, cost)
            need = need_of(deployment, cost)
            decision = cache.decide(need, residents, budget)
        is_due = not isinstance(decision, Wait) or now > deployment.wanted_until
        return Ruling(deployment, decision, is_due, cost, need, residents, budget)

    def lack(self, everything: Iterable[Deployment], deployment: Deployment, now: float) -> str | None:
        """Return why a loaded, and so measured, model cannot stay: it is too large beside those that are never evicted.
        None where it can.
        """
        if deployment.owner is Owner.START or deployment.predecessor is not None:
            return None
        others = [one for one in self._residents(everything, now) if one.key != deployment.key]
        fixed = [one for one in others if one.stay is Stay.FIXED]
        size = max(deployment.cost.host, deployment.grown()) + SLACK
        need = replace(need_of(deployment, deployment.cost), host=size)
        return cache.numbers(need, fixed, self.budget) if cache.place(need, fixed, self.budget) is None else None

    def excess(self, everything: Iterable[Deployment], now: float) -> tuple[int, ...]:
        return cache.excess(self._residents(everything, now), self.budget)

    def oldest(self, everything: Iterable[Deployment], now: float) -> int | None:
        """Return the key of the idle model that was used longest ago."""
        idle = [one for one in self._residents(everything, now) if one.stay is Stay.IDLE]
        return min(idle, key=lambda one: (one.last_used, one.key)).key if idle else None

    def _residents(self, everything: Iterable[Deployment], now: float) -> list[Resident]:
        others = list(everything)
        # A model that is being replaced serves until its successor does.
        replaced = {one.predecessor.key for one in others if one.predecessor is not None}
        # A model that waits again, after a failed load or for another GPU, may have processes that are ending.
        there = [one for one in others if one.stage is not Stage.WAITING or one.replicas]
        return [self._resident(one, one.key in replaced, now) for one in there]

    def _resident(self, deployment: Deployment, replaced: bool, now: float) -> Resident:
        stay = stay_of(deployment, now, self._keeps_sessions)
        stay = Stay.BUSY if replaced and stay is Stay.IDLE else stay
        return Resident(deployment.key, deployment.memory(), deployment.last_used(), stay, deployment.device_memory())


def stay_of(deployment: Deployment, now: float, keeps_sessions: bool = True) -> Stay:
    if deployment.stage is not Stage.SERVING:
        return Stay.LEAVING
    if deployment.pinned or deployment.owner is not Owner.STORE:
        return Stay.FIXED
    settled = deployment.was_ready and len(deployment.ready()) == len(deployment.replicas) == deployment.model.replicas
    if not settled and deployment.failed is None:
        return Stay.BUSY
    fresh = now < deployment.last_ready + SETTLE and not any(replica.row.completed for replica in deployment.replicas)
    sessions = keeps_sessions and any(replica.row.sessions for replica in deployment.replicas)
    return Stay.BUSY if fresh or sessions or deployment.has_work() else Stay.IDLE


def need_of(deployment: Deployment, cost: Cost) -> Need:
    where = "auto" if deployment.model.device in ANY else deployment.model.device
    return Need(cost.peak + SLACK, cost.device, deployment.model.replicas, where)


def reservation(deployment: Deployment, residents: list[Resident], budget: Budget) -> Resident:
    need = need_of(deployment, deployment.cost)
    devices = cache.expect(need, residents, budget)
    return Resident(deployment.key, need.host * need.replicas, deployment.used, Stay.BUSY, devices)
