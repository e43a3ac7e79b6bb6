"""Assembly: makes the source of a store's models."""

from __future__ import annotations

from pathlib import Path

from serving.config.config import Config
from serving.supervisor.background import Background
from serving.supervisor.executor import Executor
from serving.supervisor.fleet.fleet import Fleet
from serving.supervisor.loading.broken import BrokenModels
from serving.supervisor.loading.listing import Listing
from serving.supervisor.loading.loader import ModelLoader
from serving.supervisor.loading.modelsapi import ModelsApi
from serving.supervisor.loading.opener import Opener
from serving.supervisor.loading.reloads import Reloads
from serving.supervisor.loading.storemodels import StoreModels
from serving.supervisor.store.diskcache import DiskCache
from serving.supervisor.store.repository import ModelRepository


def store_models(config: Config, fleet: Fleet, executor: Executor, disk: DiskCache) -> StoreModels:
    """Return the source of the models of a store, with a ``disk`` cache for unpacked ones."""
    state, background = fleet.state, Background()

    def is_in_use(folder: Path) -> bool:
        models = [deployment.model for deployment in state.everything()]
        models += [parked.model for parked in state.warm.all()]
        return any(Path(model.path).is_relative_to(folder) for model in models)

    repository = ModelRepository(config, disk, is_in_use, [gpu.name for gpu in state.devices.gpus()])
    opener = Opener(repository, disk, config.load_timeout)
    broken = BrokenModels(repository.locate)
    root = f"{Path(config.store).absolute()}/"
    listing = Listing(state, repository, broken, lambda text: text.replace(root, ""))
    loader = ModelLoader(fleet, executor, opener, broken, listing, background)
    reloads = Reloads(fleet, executor, opener, loader, background, config.load_timeout)
    api = ModelsApi(config, state, loader, opener, listing, broken)
    return StoreModels(config, state, opener, loader, reloads, api, background)
