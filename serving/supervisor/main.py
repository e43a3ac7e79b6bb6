"""Main: the beginning of the supervisor's process: reads the models, takes the port, serves until told to stop."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import tempfile
from typing import NoReturn

from serving.config.config import Config
from serving.errors import ModelError
from serving.ipc.runtime import Runtime, become_subreaper
from serving.supervisor import processes
from serving.supervisor.announcements import cannot_serve
from serving.supervisor.fleet.admission import check_memory
from serving.supervisor.launch import Launched
from serving.supervisor.services import bind
from serving.supervisor.setup import Setup
from serving.supervisor.store.initial import open_models
from serving.supervisor.supervisor import Supervisor
from serving.system import gpus, log
from serving.system.gpus.driver import Driver
from serving.system.signals import Stopped

FILES = 65536  # open files per process; many programs behave badly with a higher limit
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors of a temporary folder that is full or read-only


def main(config: Config, driver: Driver | None = None, forks: Launched | None = None) -> int:
    """Serve until told to stop, and end the process; returns an exit code only if it cannot start. ``forks`` is a fork
    server that already runs.
    """
    log.setup("supervisor", config.log_level, config.log_format)
    for warning in config.warnings:
        log.warning(warning)
    driver = driver or gpus.find()
    try:
        check_memory(config)
        models, disk = open_models(config, [gpu.name for gpu in driver.gpus()])
    except Stopped:
        log.info("stopped before there was anything to stop")
        return 0
    except ModelError as exc:
        cannot_serve(str(exc))
        return 1
    except OSError as exc:
        return no_room(exc)
    try:
        listener = bind(config.host, config.port)
    except OSError as exc:
        cannot_serve(f"cannot listen on {config.host}:{config.port}: {os.strerror(exc.errno or 0)}")
        return 1
    host, port = listener.getsockname()[:2]
    try:
        Runtime.sweep()
        runtime = Runtime.create(config, host, port)
        supervisor = Supervisor(Setup(config, models, runtime, driver, disk), listener, forks)
    except OSError as exc:
        return no_room(exc)
    become_subreaper()
    processes.raise_file_limit(FILES)
    what = {"model": models[0].name, "handler": models[0].handler} if models else {"store": config.store}
    log.info("listening", host=host, port=port, **what)
    asyncio.run(live(supervisor))
    raise AssertionError("a supervisor ends its process")


def no_room(exc: OSError) -> int:
    """Log one line and return the exit code: everything that a start writes is below the temporary folder."""
    place = exc.filename or tempfile.tempdir
    cannot_serve(f"{exc.strerror or exc}{f': {place}' if place else ''}")
    return 1


async def live(supervisor: Supervisor) -> NoReturn:
    code = 1
    try:
        code = await supervisor.run()
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno in DISK:
            no_room(exc)
        else:
            log.error("the supervisor failed", exc=exc)
    finally:
        # A regular exit would wait for threads, and one that unpacks an archive may take minutes.
        os._exit(code)
