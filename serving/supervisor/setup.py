"""Setup: what a server is started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.config.config import Config
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.model.model import Model
from serving.supervisor.store.diskcache import DiskCache
from serving.system.gpus.driver import Driver


@dataclass(frozen=True, slots=True)
class Setup:
    """``models`` are served from the start; a server of many models has none, and a ``disk`` cache instead. ``driver``
    reports on GPUs.
    """

    config: Config
    models: Sequence[Model]
    runtime: Runtime
    driver: Driver
    disk: DiskCache | None = None
    board: Scoreboard = field(default_factory=Scoreboard.create)
