"""Catalog: loads and unloads the models of a store, for clients, for the platform and after changes on disk.

Disk work runs in threads, decisions are the fleet's, and only one task at a time opens a name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from serving.config.config import Config
from serving.errors import (
    AlreadyLoaded,
    BadModel,
    BadRequest,
    ModelFailed,
    ModelNotFound,
    ModelNotLoaded,
    OutOfMemory,
    ServingError,
    Unavailable,
)
from serving.ipc.messages import (
    Answer,
    Ask,
    DescribeModels,
    FindDefault,
    ListModels,
    LoadModel,
    Locate,
    PinModel,
    Placement,
    Problem,
    UnloadModel,
)
from serving.model.model import Model
from serving.model.names import TARGET_MODEL, without_suffix
from serving.supervisor.broken import Broken, BrokenModels
from serving.supervisor.fleet.actions import Action
from serving.supervisor.fleet.deployment import Deployment, Owner, Stage
from serving.supervisor.fleet.describe import describe, shown
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.problems import gone, problem_of
from serving.supervisor.store.artifact import artifact
from serving.supervisor.store.diskcache import Cost, DiskCache
from serving.supervisor.store.listing import Listing
from serving.supervisor.store.repository import ModelRepository
from serving.supervisor.store.unpacking import Unpacker
from serving.system import log

LONGEST = 350.0  # seconds that the platform waits for a call
GRACE = 60.0  # seconds more, after which nobody waits for the answer to a call
LOOK = 0.5  # seconds between looks at the files of models that are in use
REMEMBERED = 1000  # aliases of models at most


class Catalog:
    """A store's models. ``act`` carries out actions, ``tell`` sends a placement, ``placement`` makes one."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        repository: ModelRepository,
        disk: DiskCache,
        act: Callable[[list[Action]], None],
        tell: Callable[[Placement], None],
        placement: Callable[[str], Placement],
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._repository = repository
        self._disk = disk
        self._act = act
        self._tell = tell
        self._placement = placement
        self._unpacker = Unpacker(repository.limits, config.load_timeout)
        self._names: dict[str, str] = {}
        self._opening: dict[str, float] = {}
        self._outcomes: dict[str, asyncio.Future[Problem | None]] = {}
        self._ends: dict[int, asyncio.Future[None]] = {}
        self._again: dict[str, float] = {}
        self._broken = BrokenModels(repository.locate)
        root = f"{Path(config.store).absolute()}/"
        self._listing = Listing(fleet, repository, self._broken, lambda text: text.replace(root, ""))
        self._changed: dict[str, str] = {}
        self._looked = 0.0
        self._tried: dict[int, str] = {}
        self._looking: set[int] = set()
        self._preloading: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_preloading(self) -> bool:
        return bool(self._preloading)

    def preload(self) -> None:
        """Begin to load the models that the settings name."""
        for name in dict.fromkeys(self._repository.resolve(name)[0] for name in self._config.preload or ()):
            self._preloading.add(name)
            self._begin(name, "", Owner.STORE, time.monotonic() + self._config.load_timeout)

    def close(self) -> None:
        """End all unpacking."""
        self._unpacker.close()

    # Requests of HTTP workers.

    def locate(self, message: Locate) -> Placement | None:
        """Return where a model is; None where that will be told later."""
        name = message.model
        if without_suffix(name) == name or self._fleet.state.get(name) is not None or name in self._opening:
            return self._locate(message)
        self._spawn(self._look_up(message))  # only the disk shows whether the suffix belongs to the name
        return None

    async def _look_up(self, message: Locate) -> None:
        name = message.model
        try:
            own = await self._resolve(name)
            placement = self._locate(message) if own == name else Placement(name, gone=True, alias=own)
        except ServingError as error:
            placement = gone(name, Problem.of(error)) if message.load else self._locate(message)
        if placement is not None:
            self._tell(placement)

    async def _resolve(self, name: str) -> str:
        """Return the model's own name for the name that a client used. Raises ModelNotFound, BadRequest."""
        own, _ = await asyncio.to_thread(self._repository.resolve, name)
        self._names[name] = own
        if len(self._names) > REMEMBERED:
            del self._names[next(iter(self._names))]
        return own

    def _locate(self, message: Locate) -> Placement | None:
        name, now = message.model, time.monotonic()
        deployment = self._fleet.state.get(name)
        if deployment is not None and deployment.stage is not Stage.LEAVING:
            deployment.touch(now, message.until)
            return self._placement(name)
        if not message.load:
            return gone(name, Problem.of(ModelNotLoaded(f"model {name} is not loaded")))
        if deployment is not None:
            if deployment.problem is not None:
                return self._placement(name)
            self._again[name] = max(self._again.get(name, 0.0), message.until)
            return None
        if (broken := self._broken.of(name, now)) is not None:
            if not self._broken.is_to_be_looked_at(broken, now):
                return gone(name, broken.problem)
            self._spawn(self._look_at_broken(name, broken, message.until))
            return None
        if name in self._opening:
            self._opening[name] = max(self._opening[name], message.until)
        else:
            self._begin(name, "", Owner.STORE, message.until)
        return None

    def ask(self, message: Ask, reply: Callable[[Answer], None]) -> None:
        """Answer one call of the multi-model API."""
        self._spawn(self._answer(message, reply))

    async def _answer(self, message: Ask, reply: Callable[[Answer], None]) -> None:
        try:
            async with asyncio.timeout(max(self._config.load_timeout, LONGEST) + GRACE):
                answer = await self._carry_out(message)
        except TimeoutError:
            answer = Answer(message.id, Problem.of(Unavailable("this takes longer than a call may; it goes on")))
        except ServingError as error:
            answer = Answer(message.id, Problem.of(error))
        except Exception as exc:
            log.error("a call of the multi-model API failed", exc=exc)
            answer = Answer(message.id, Problem(500, "internal", "internal error"))
        reply(answer)

    async def _carry_out(self, message: Ask) -> Answer:
        match message:
            case LoadModel(id=id, model=name, url=url):
                return Answer(id, await self._load(name, url))
            case UnloadModel(id=id, model=name):
                await self._unload(name)
                return Answer(id)
            case PinModel(id=id, model=name, pinned=pinned):
                self._loaded(name).pinned = pinned
                return Answer(id)
            case DescribeModels(id=id, model=name):
                found = self._fleet.state.current() if name is None else [self._loaded(name)]
                now = time.monotonic()
                told = [describe(one, now) for one in found if one.stage is not Stage.LEAVING]
                return Answer(id, models=told if self._config.local else [shown(one, self._config) for one in told])
            case ListModels(id=id, model=name):
                listed = await self._listing.all() if name is None else [await self._listing.one(name)]
                return Answer(id, listed=listed)
            case FindDefault(id=id):
                return Answer(id, name=await self._default())

    def _called(self, name: str) -> str:
        """Return a model's own name where it was loaded by another one."""
        return name if self._fleet.state.get(name) is not None else self._names.get(name, name)

    def _loaded(self, name: str) -> Deployment:
        deployment = self._fleet.state.get(self._called(name))
        if deployment is None or deployment.stage is Stage.LEAVING:
            reason = self._broken.reason(name)
            raise ModelNotLoaded(f"model {name} is not loaded{f'; the last time: {reason}' if reason else ''}")
        return deployment

    async def _default(self) -> str:
        if self._config.default_model is not None:
            return self._config.default_model
        names = await asyncio.to_thread(self._repository.names)
        if len(names) != 1:
            raise BadRequest(f"the header {TARGET_MODEL} must name one of the {len(names)} models of the store")
        return names[0]

    # Loads.

    async def _load(self, name: str, url: str) -> Problem | None:
        if not url and self._fleet.state.get(name) is None:
            name = await self._resolve(name)
        while True:
            deployment = self._fleet.state.get(name)
            if deployment is None and name not in self._opening:
                break
            if deployment is not None and deployment.stage is Stage.LEAVING:
                await self._end_of(deployment)
            elif deployment is not None and deployment.was_ready:
                raise AlreadyLoaded(f"model {name} is loaded already")
            else:
                await self._outcome(name)  # of the load under way; if it fails, this call loads
        self._begin(name, url, Owner.PLATFORM, time.monotonic() + self._config.request_timeout)
        return await self._outcome(name)

    def _outcome(self, name: str) -> asyncio.Future[Problem | None]:
        future = self._outcomes.get(name)
        if future is None:
            future = self._outcomes[name] = asyncio.get_running_loop().create_future()
        return asyncio.shield(future)

    def _begin(self, name: str, url: str, owner: Owner, until: float) -> None:
        self._opening[name] = until
        self._listing.begun(name)
        self._spawn(self._open(name, url, owner))

    async def _open(self, name: str, url: str, owner: Owner) -> None:
        try:
            model, cost = await self._read(name, url)
        except Exception as exc:
            del self._opening[name]
            self._finish(name, self._failure(name, owner, problem_of(exc, name)))
            return
        until = self._opening.pop(name)
        now = time.monotonic()
        self._fleet.add(model, now, owner, until, cost)
        self._act(self._fleet.admit(now))
        if self._fleet.state.get(name) is not None:
            self._tell(self._placement(name))

    async def _read(self, name: str, url: str) -> tuple[Model, Cost | None]:
        path = await asyncio.to_thread(self._repository.locate, name, url)
        model = await self._repository.open_async(name, path, self._unpacker)
        return model, await asyncio.to_thread(self._disk.recall, model.fingerprint, model.device)

    async def _look_at_broken(self, name: str, broken: Broken, until: float) -> None:
        """Load the model if its files have changed, otherwise tell the waiting workers the same problem again."""
        if not await self._broken.has_changed(name, broken):
            self._tell(gone(name, broken.problem))
        elif self._fleet.state.get(name) is None and name not in self._opening:
            self._begin(name, "", Owner.STORE, until)
        else:
            self._tell(self._placement(name))

    def _failure(self, name: str, owner: Owner, problem: Problem) -> Problem:
        """Log and record a failed load: clients must not repeat it over and over, while the platform may try again."""
        tell = log.error if name in self._preloading else log.warning  # loaded for the operator, or for a client
        tell("a model could not be loaded", model=name, code=problem.code, error=problem.message)
        if problem.code != ModelNotFound.code:
            self._broken.note(name, problem.message)
            if owner is Owner.STORE:
                self._spawn(self._broken.remember_files(name, self._broken.add(name, problem)))
            else:
                self._listing.out(name, problem.message)
        return problem

    def _finish(self, name: str, problem: Problem | None) -> None:
        if (future := self._outcomes.pop(name, None)) is not None:
            future.set_result(problem)
        self._preloading.discard(name)
        if problem is not None:
            self._tell(gone(name, problem))

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
        self._finish(deployment.name, problem)

    # Ends.

    async def _unload(self, name: str) -> None:
        name = self._called(name)
        if name in self._opening:
            await self._outcome(name)
        # Includes its replacement and its predecessor, so that all memory is back before any answer.
        ends = [self._end_of(one) for one in self._fleet.state.everything() if one.name == name]
        deployment = self._fleet.state.get(name)
        if deployment is None or deployment.stage is Stage.LEAVING:
            await asyncio.gather(*ends)
            raise ModelNotLoaded(f"model {name} is not loaded")
        log.info("unloading", model=name)
        self._listing.out(name)
        self._act(self._fleet.leave(deployment, time.monotonic()))
        await asyncio.gather(*ends)

    def _end_of(self, deployment: Deployment) -> asyncio.Future[None]:
        future = self._ends.get(deployment.key)
        if future is None:
            future = self._ends[deployment.key] = asyncio.get_running_loop().create_future()
        return asyncio.shield(future)

    def on_gone(self, deployment: Deployment) -> None:
        """Handle the end of a model's last process."""
        future = self._ends.pop(deployment.key, None)
        if future is not None:
            future.set_result(None)
        name = deployment.name
        if self._fleet.state.get(name) is not None or name in self._opening:
            return
        if name in self._outcomes:
            self._finish(name, Problem.of(ModelFailed(f"model {name} was unloaded while it was loaded")))
        until = self._again.pop(name, None)
        if until is not None and until > time.monotonic():
            self._begin(name, "", Owner.STORE, until)
        elif until is not None:
            self._tell(self._placement(name))  # gone: HTTP workers with waiting requests ask again

    def on_learned(self, deployment: Deployment) -> None:
        model = deployment.model
        if model.fingerprint:
            self._spawn(asyncio.to_thread(self._disk.learn, model.fingerprint, model.device, deployment.cost))

    # Changes on disk.

    def look(self, now: float) -> None:
        """Look now and then whether the files of models in use have changed."""
        if self._config.reload == "on-change" and now > self._looked + LOOK:
            since, self._looked = self._looked, now
            for deployment in self._fleet.state.current():
                # A failed model is not used, so look at it until its files are mended.
                used = (
                    deployment.last_used() > since or deployment.name in self._changed or deployment.failed is not None
                )
                if used and deployment.was_ready and deployment.stage is Stage.SERVING and deployment.model.url:
                    self._look_at(deployment)

    def _look_at(self, deployment: Deployment) -> None:
        if deployment.key not in self._looking:
            self._looking.add(deployment.key)
            self._spawn(self._compare(deployment)).add_done_callback(lambda _: self._looking.discard(deployment.key))

    async def _compare(self, deployment: Deployment) -> None:
        name = deployment.name
        try:
            digest = (await asyncio.to_thread(artifact, Path(deployment.model.url))).digest
        except BadModel:
            return  # it is being replaced, or was deleted: the loaded one goes on
        if digest in (deployment.model.digest, self._tried.get(deployment.key)):
            self._changed.pop(name, None)
        elif self._changed.get(name) != digest:
            self._changed[name] = digest  # loaded if the next look finds the same
        elif name not in self._opening:
            del self._changed[name]
            self._tried[deployment.key] = digest
            await self._reload(deployment)

    async def _reload(self, deployment: Deployment) -> None:
        name = deployment.name
        log.info("the files of a model have changed; loading it beside the old one", model=name)
        try:
            model, cost = await self._read(name, deployment.model.url)
        except Exception as exc:
            deployment.reload_error = problem_of(exc, name).message
            log.error("a changed model could not be read", model=name, error=deployment.reload_error)
            return
        if self._fleet.state.get(name) is deployment and deployment.stage is Stage.SERVING:
            now = time.monotonic()
            self._fleet.add(model, now, deployment.owner, now + self._config.load_timeout, cost)
            self._act(self._fleet.admit(now))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
