"""Bring: all that has to be done before a model can answer, in its order."""

from __future__ import annotations

from collections.abc import Callable

from serving.config.config import Config
from serving.handler import Handler, Home
from serving.ipc.scoreboard import Phase
from serving.model.model import Model
from serving.worker.footprint import Footprint
from serving.worker.loading.loader import create_handler, load, open_device, warm
from serving.worker.loading.requirements import prepare
from serving.worker.loading.speed import accelerate
from serving.worker.phasereports import PhaseReports


def bring(
    model: Model,
    config: Config,
    home: Home | None,
    footprint: Footprint,
    reports: PhaseReports,
    count_recompilation: Callable[[], None],
) -> Handler:
    """Return the handler, loaded on the device that ``footprint`` then has, and warmed up.

    Raises ModelError where no retry helps, and what user code raises.
    """
    prepare(model, config.install_requirements)
    handler = create_handler(model)
    handler.home = home
    device = footprint.device = open_device(model)
    reports.enter(Phase.LOADING)
    load(handler, model, device.name)
    device.free()  # give back what only the load needed
    # A model of a store must load soon and may be parked in host memory, which one with CUDA graphs cannot.
    accelerated = accelerate(handler, model, device, count_recompilation, by_itself=not config.many)
    reports.enter(Phase.WARMING)
    warm(handler, model, accelerated, device.name)
    return handler
