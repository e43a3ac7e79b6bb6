"""The life of a model worker's process, from the fork to its end."""

from __future__ import annotations

import faulthandler
import functools
import os
import resource
import socket
import time

from serving.config.config import Config
from serving.ipc.messages import Fork
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Row
from serving.system import log
from serving.usercode import surroundings
from serving.worker import attribution, spare, strays
from serving.worker.loading import ranks
from serving.worker.loading.loader import create_handler
from serving.worker.server import Worker


def main(request: Fork, config: Config, runtime: Runtime, row: Row) -> None:
    """Run a worker process from the fork to its end; never returns."""
    surroundings.begin(config)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # the stacks are logged; a core of all weights helps nobody
    stacks = runtime.stacks_path(row.index, request.epoch).open("wb")
    faulthandler.enable(stacks, all_threads=True)
    row.stamp_beat()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.connect(str(runtime.control_path))
    model = request.model or spare.wait(control, request, row)
    surroundings.enter(model, config, runtime.words_path(row.index, request.epoch))
    log.surround(attribution.request_fields, model=model.name)
    if model.gpus > 1:
        meeting = runtime.meeting_path(row.index, request.epoch)

        def follow(rank: int, leader: socket.socket) -> None:
            control.close()
            ranks.follow(model, rank, meeting, leader, functools.partial(create_handler, model))

        ranks.begin(model, meeting, follow)
    strays.watch_for()
    started = time.monotonic()
    Worker(model, config, runtime, row, request.epoch, control).run()
    log.debug("the worker ends", seconds=round(time.monotonic() - started, 3))
    surroundings.leave()
    os._exit(0)
