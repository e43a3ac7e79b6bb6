"""The life of a model worker's process, from the fork to its end."""

from __future__ import annotations

import faulthandler
import os
import resource
import time

from serving import log
from serving.config import Config
from serving.model import Model
from serving.runtime import Runtime
from serving.scoreboard import Row
from serving.worker.server import Worker


def main(model: Model, config: Config, runtime: Runtime, row: Row, epoch: int) -> None:
    """The life of a worker process after the fork; never returns."""
    log.setup("worker", config.log_level, config.log_format)
    log.capture_prints(model=model.name)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # the stacks are logged; a core of all weights helps nobody
    stacks = runtime.stacks_path(row.index, epoch).open("wb")
    faulthandler.enable(stacks, all_threads=True)
    row.stamp_beat()
    started = time.monotonic()
    Worker(model, config, runtime, row, epoch).run()
    log.debug("the worker ends", seconds=round(time.monotonic() - started, 3))
    os._exit(0)
