"""Surroundings: a model's process made to look to user code like a plain Python process.

A worker is a fork of a process that has done other things; this module replaces what shows. docs/process.md lists what
stays different on purpose.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from types import ModuleType

from serving.adapters.conventions import convention_named
from serving.config import words
from serving.config.config import Config
from serving.config.words import STREAMS, Words
from serving.model.model import Model
from serving.system import log
from serving.usercode import environment, origin, userlogs
from serving.usercode.prints import Prints

prints: Prints | None = None  # of this process, once it has a model


def begin(config: Config) -> None:
    """Set up logging and random numbers of a process without a model."""
    userlogs.setup(config.log_level, config.log_format)
    reseed()


def enter(model: Model, config: Config, kept: Path | None) -> None:
    """Set streams, environment, main module and folder, before any user code.

    Unfinished printed lines are kept in the file ``kept``.
    """
    global prints
    prints = Prints(places(kept), model=model.name)
    userlogs.claim(model=model.name)
    sys.modules["__main__"] = ModuleType("__main__")  # without ``__file__``, which child processes would run
    sys.argv[:] = [script_of(model)]
    environment.enter(model, config.compile_cache)
    os.chdir(model.path)


def places(kept: Path | None) -> list[Words]:
    if kept is not None:
        try:
            return words.make(kept)
        except OSError as exc:
            log.warning("what is printed without an end may be lost", error=f"{type(exc).__name__}: {exc}")
    return [Words(None, index) for index in range(len(STREAMS))]


def script_of(model: Model) -> str:
    """Return the file that the model's code begins with, or a module's name from an installed package."""
    root, module = Path(model.path), model.handler.partition(":")[0]
    if isinstance(named := model.options.get("script"), str):
        return named
    convention = convention_named(model.convention)
    if convention is not None and (script := convention.script(model)) is not None:
        return script
    files = [folder / (module.replace(".", "/") + ".py") for folder in (Path(model.code), root)]
    return next((str(file) for file in files if file.is_file()), module)


def reseed() -> None:
    """Draw new random seeds, different in each worker. ``random`` does that by itself."""
    if (random := sys.modules.get("numpy.random")) is not None:
        random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()


def write_old() -> None:
    """Write old unfinished lines of user code. Called now and then."""
    if prints is not None:
        prints.write_old()


def describe(exc: BaseException) -> str:
    """Return an exception in words, with its place in user code.

    For SystemExit also the program's last words, as parsers of options print them.
    """
    words = origin.describe(exc)
    last_line = prints.last_error() if prints is not None and isinstance(exc, SystemExit) else ""
    return f"{words}, after {last_line}" if last_line else words


def leave() -> None:
    """Run user code's exit handlers and write the rest of its output, before the process ends normally."""
    atexit._run_exitfuncs()
    if prints is not None:
        prints.write_all()
