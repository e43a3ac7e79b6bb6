"""ModelLoader: opens the models of a store and has the fleet load them, for clients and for the platform.

Disk work runs in threads, decisions are the fleet's, and only one task at a time opens a name.
"""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass, field

from serving.errors import AlreadyLoaded, ModelFailed, ModelNotFound, ModelNotLoaded, OutOfMemory, ServingError
from serving.ipc.messages import Locate, Placement, Problem
from serving.model.names import without_suffix
from serving.supervisor.background import Background
from serving.supervisor.executor import Executor
from serving.supervisor.fleet.deployment import Deployment, Owner, Stage
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.loading.broken import Broken, BrokenModels
from serving.supervisor.loading.listing import Listing
from serving.supervisor.loading.opener import Opener
from serving.supervisor.loading.problems import gone, problem_of
from serving.system import log


class Step(enum.Enum):
    IDLE = "idle"  # nothing is under way; somebody may wait all the same
    OPENING = "opening"  # its files are read, and unpacked where need be
    LOADING = "loading"  # the fleet has it: it waits for room, or a worker loads it


NEXT = {Step.IDLE: {Step.OPENING}, Step.OPENING: {Step.LOADING, Step.IDLE}, Step.LOADING: {Step.IDLE}}


@dataclass(slots=True, eq=False)
class Load:
    """The load of one name. ``until`` is the latest instant until which a request waits for what is being opened,
    ``again`` that of requests that came while the model was leaving, for which it is loaded once more. ``outcome`` is
    set at the end of the load, for calls that wait for it. ``is_preload``: the settings asked for it.
    """

    until: float = 0.0
    again: float | None = None
    outcome: asyncio.Future[Problem | None] | None = None
    is_preload: bool = False
    _step: Step = field(default=Step.IDLE, init=False)

    @property
    def step(self) -> Step:
        return self._step

    def become(self, step: Step) -> None:
        """Change the step. Raises ValueError where the table forbids that."""
        if step not in NEXT[self._step]:
            raise ValueError(f"a load that is {self._step.value} cannot go on to be {step.value}")
        self._step = step

    @property
    def is_over(self) -> bool:
        return self._step is Step.IDLE and self.again is None and self.outcome is None and not self.is_preload


class ModelLoader:
    """The loads and unloads of a store's models."""

    def __init__(
        self,
        fleet: Fleet,
        executor: Executor,
        opener: Opener,
        broken: BrokenModels,
        listing: Listing,
        background: Background,
    ) -> None:
        self._fleet = fleet
        self._state = fleet.state
        self._executor = executor
        self._opener = opener
        self._broken = broken
        self._listing = listing
        self._background = background
        self._loads: dict[str, Load] = {}
        self._ends: dict[int, asyncio.Future[None]] = {}

    @property
    def is_preloading(self) -> bool:
        return any(load.is_preload for load in self._loads.values())

    def is_opening(self, name: str) -> bool:
        return name in self._loads and self._loads[name].step is Step.OPENING

    def preload(self, names: list[str], until: float) -> None:
        """Begin to load the models that the settings name."""
        for name in names:
            self._load_of(name).is_preload = True
            self._begin(name, "", Owner.STORE, until)

    def _load_of(self, name: str) -> Load:
        return self._loads.setdefault(name, Load())

    # Requests of clients.

    def locate(self, message: Locate) -> Placement | None:
        """Return where a model is; None where that will be told later."""
        name = message.model
        if without_suffix(name) == name or self._state.get(name) is not None or self.is_opening(name):
            return self._locate(message)
        self._background.spawn(self._look_up(message))  # only the disk shows whether the suffix belongs to the name
        return None

    async def _look_up(self, message: Locate) -> None:
        name = message.model
        try:
            own = await self._opener.resolve(name)
            placement = self._locate(message) if own == name else Placement(name, gone=True, alias=own)
        except ServingError as error:
            placement = gone(name, Problem.of(error)) if message.load else self._locate(message)
        if placement is not None:
            self._executor.send_placement(placement)

    def _locate(self, message: Locate) -> Placement | None:
        name, now = message.model, time.monotonic()
        deployment = self._state.get(name)
        if deployment is not None and deployment.stage is not Stage.LEAVING:
            deployment.touch(now, message.until)
            return self._executor.placement(name)
        if not message.load:
            return gone(name, Problem.of(ModelNotLoaded(f"model {name} is not loaded")))
        if deployment is not None:
            if deployment.problem is not None:
                return self._executor.placement(name)
            load = self._load_of(name)
            load.again = max(load.again or 0.0, message.until)
            return None
        if (broken := self._broken.of(name, now)) is not None:
            if not self._broken.begin_look(broken, now):
                return gone(name, broken.problem)
            self._background.spawn(self._look_at_broken(name, broken, message.until))
        elif self.is_opening(name):
            load = self._loads[name]
            load.until = max(load.until, message.until)
        else:
            self._begin(name, "", Owner.STORE, message.until)
        return None

    async def _look_at_broken(self, name: str, broken: Broken, until: float) -> None:
        """Load the model if its files have changed, otherwise send the waiting workers the same problem again."""
        if not await self._broken.look_again(name, broken):
            self._executor.send_placement(gone(name, broken.problem))
        elif self._state.get(name) is None and not self.is_opening(name):
            self._begin(name, "", Owner.STORE, until)
        else:
            self._executor.send_placement(self._executor.placement(name))

    # Calls of the platform.

    async def load(self, name: str, url: str, seconds: float) -> Problem | None:
        """Load a model by name or ``url``, which waits ``seconds`` for room at most. Returns the problem, None where it
        is loaded. Raises AlreadyLoaded, ModelNotFound, BadRequest.
        """
        if not url and self._state.get(name) is None:
            name = await self._opener.resolve(name)
        while True:
            deployment = self._state.get(name)
            if deployment is None and not self.is_opening(name):
                break
            if deployment is not None and deployment.stage is Stage.LEAVING:
                await self._end_of(deployment)
            elif deployment is not None and deployment.was_ready:
                raise AlreadyLoaded(f"model {name} is loaded already")
            else:
                await self._outcome(name)  # of the load under way; if it fails, this call loads
        self._begin(name, url, Owner.PLATFORM, time.monotonic() + seconds)
        return await self._outcome(name)

    async def unload(self, name: str) -> None:
        """Unload a model, its replacement and its predecessor, so that all memory is back afterwards. Raises
        ModelNotLoaded.
        """
        if self.is_opening(name):
            await self._outcome(name)
        ends = [self._end_of(one) for one in self._state.everything() if one.name == name]
        deployment = self._state.get(name)
        if deployment is None or deployment.stage is Stage.LEAVING:
            await asyncio.gather(*ends)
            raise ModelNotLoaded(f"model {name} is not loaded")
        self._executor.count_unload(name)
        log.info("unloading", model=name)
        self._listing.out(name)
        self._executor.act(self._fleet.leave(deployment, time.monotonic()))
        await asyncio.gather(*ends)

    def _outcome(self, name: str) -> asyncio.Future[Problem | None]:
        load = self._load_of(name)
        load.outcome = load.outcome or asyncio.get_running_loop().create_future()
        return asyncio.shield(load.outcome)

    def _end_of(self, deployment: Deployment) -> asyncio.Future[None]:
        future = self._ends.get(deployment.key)
        if future is None:
            future = self._ends[deployment.key] = asyncio.get_running_loop().create_future()
        return asyncio.shield(future)

    # Loads.

    def _begin(self, name: str, url: str, owner: Owner, until: float) -> None:
        load = self._load_of(name)
        load.become(Step.OPENING)
        load.until = until
        self._listing.begun(name)
        self._background.spawn(self._open(name, url, owner))

    async def _open(self, name: str, url: str, owner: Owner) -> None:
        load = self._loads[name]
        try:
            model, cost = await self._opener.read(name, url)
        except Exception as exc:
            load.become(Step.IDLE)
            self._finish(name, self._failure(name, owner, problem_of(exc, name)))
            return
        load.become(Step.LOADING)
        now = time.monotonic()
        self._fleet.add(model, now, owner, load.until, cost)
        self._executor.act(self._fleet.admit(now))
        if self._state.get(name) is not None:
            self._executor.send_placement(self._executor.placement(name))

    def _failure(self, name: str, owner: Owner, problem: Problem) -> Problem:
        """Log and record a failed load: clients must not repeat it over and over, while the platform may try again."""
        # Loaded for the operator, or for a client.
        log_at = log.error if self._load_of(name).is_preload else log.warning
        log_at("a model could not be loaded", model=name, code=problem.code, error=problem.message)
        if problem.code != ModelNotFound.code:
            self._broken.note(name, problem.message)
            if owner is Owner.STORE:
                self._background.spawn(self._broken.remember_files(name, self._broken.add(name, problem)))
            else:
                self._listing.out(name, problem.message)
        return problem

    def _finish(self, name: str, problem: Problem | None) -> None:
        """End a load: tell those that wait for it."""
        load = self._load_of(name)
        if load.outcome is not None:
            load.outcome.set_result(problem)
        load.outcome, load.is_preload = None, False
        self._drop(name)
        if problem is not None:
            self._executor.send_placement(gone(name, problem))

    def _drop(self, name: str) -> None:
        if self._loads[name].is_over:
            del self._loads[name]

    # The fleet's news.

    def on_settled(self, deployment: Deployment, problem: Problem | None) -> None:
        """Handle the end of a load by the fleet."""
        if deployment.predecessor is not None:
            error = problem.message if problem else None
            log.error("a changed model could not be loaded; the old one goes on", model=deployment.name, error=error)
            return
        if problem is None:
            self._broken.forget(deployment.name)
            log.info("model loaded", model=deployment.name, bytes=deployment.memory())
        elif deployment.devices or deployment.made_room or problem.code != OutOfMemory.code:
            self._failure(deployment.name, deployment.owner, problem)
        load = self._load_of(deployment.name)
        if load.step is Step.LOADING:
            load.become(Step.IDLE)
        self._finish(deployment.name, problem)

    def on_gone(self, deployment: Deployment) -> None:
        """Handle the end of a model's last process."""
        name, future = deployment.name, self._ends.pop(deployment.key, None)
        if future is not None:
            future.set_result(None)
        load = self._loads.get(name)
        if load is None or self._state.get(name) is not None or load.step is Step.OPENING:
            return
        if load.step is Step.LOADING:
            load.become(Step.IDLE)
        load.is_preload = False
        until, load.again = load.again, None
        if load.outcome is not None:
            self._finish(name, Problem.of(ModelFailed(f"model {name} was unloaded while it was loaded")))
        else:
            self._drop(name)
        if until is not None and until > time.monotonic():
            self._begin(name, "", Owner.STORE, until)
        elif until is not None:
            # It is gone: HTTP workers with waiting requests ask again.
            self._executor.send_placement(self._executor.placement(name))
