"""Reloads: looks whether the files of models in use have changed, and loads what has changed beside the old model."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from serving.errors import BadModel
from serving.supervisor.background import Background
from serving.supervisor.executor import Executor
from serving.supervisor.fleet.deployment import Deployment, Stage
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.loading.loader import ModelLoader
from serving.supervisor.loading.opener import Opener
from serving.supervisor.loading.problems import problem_of
from serving.supervisor.store.artifact import artifact
from serving.system import log

LOOK = 0.5  # seconds between looks at the files of models that are in use


@dataclass(slots=True, eq=False)
class Files:
    """The state of a deployment's files at the last look. ``changed`` is a digest that the next look has to confirm,
    ``tried`` that of files that were loaded in its place. ``is_looked_at``: a look is under way.
    """

    changed: str | None = None
    tried: str | None = None
    is_looked_at: bool = False


class Reloads:
    """The looks at the files of a store's models. ``seconds`` is how long a changed model waits for room."""

    def __init__(
        self,
        fleet: Fleet,
        executor: Executor,
        opener: Opener,
        loader: ModelLoader,
        background: Background,
        seconds: float,
    ) -> None:
        self._fleet = fleet
        self._executor = executor
        self._opener = opener
        self._loader = loader
        self._background = background
        self._seconds = seconds
        self._files: dict[int, Files] = {}
        self._looked = 0.0

    def tick(self, now: float) -> None:
        """Look now and then whether the files of models in use have changed."""
        if now > self._looked + LOOK:
            since, self._looked = self._looked, now
            for deployment in self._fleet.state.current():
                if self._is_used(deployment, since) and deployment.was_ready and deployment.stage is Stage.SERVING:
                    self._look_at(deployment)

    def _is_used(self, deployment: Deployment, since: float) -> bool:
        seen = self._files.get(deployment.key)
        used = deployment.last_used() > since or (seen is not None and seen.changed is not None)
        # A failed model is not used, so look at it until its files are mended.
        return bool(deployment.model.url) and (used or deployment.failed is not None)

    def on_gone(self, deployment: Deployment) -> None:
        self._files.pop(deployment.key, None)

    def _look_at(self, deployment: Deployment) -> None:
        files = self._files.setdefault(deployment.key, Files())
        if not files.is_looked_at:
            files.is_looked_at = True
            self._background.spawn(self._compare(deployment, files)).add_done_callback(lambda _: self._looked_at(files))

    def _looked_at(self, files: Files) -> None:
        files.is_looked_at = False

    async def _compare(self, deployment: Deployment, files: Files) -> None:
        try:
            digest = (await asyncio.to_thread(artifact, Path(deployment.model.url))).digest
        except BadModel:
            return  # it is being replaced, or was deleted: the loaded one goes on
        if digest in (deployment.model.digest, files.tried):
            files.changed = None
        elif files.changed != digest:
            files.changed = digest  # loaded if the next look finds the same
        elif not self._loader.is_opening(deployment.name):
            files.changed, files.tried = None, digest
            await self._reload(deployment)

    async def _reload(self, deployment: Deployment) -> None:
        name = deployment.name
        log.info("the files of a model have changed; loading it beside the old one", model=name)
        try:
            model, cost = await self._opener.read(name, deployment.model.url)
        except Exception as exc:
            deployment.reload_error = problem_of(exc, name).message
            log.error("a changed model could not be read", model=name, error=deployment.reload_error)
            return
        if self._fleet.state.get(name) is deployment and deployment.stage is Stage.SERVING:
            now = time.monotonic()
            self._fleet.add(model, now, deployment.owner, now + self._seconds, cost)
            self._executor.act(self._fleet.admit(now))
