"""Entry: the function or class of an archive that answers requests, found as in TorchServe."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.adapters.context import Context
from serving.adapters.torchserve.manifest import Manifest
from serving.errors import ModelError
from serving.system import log
from serving.usercode import surroundings


@dataclass(frozen=True, slots=True)
class Entry:
    """``handle(data, context)`` answers a batch; ``initialize(context)`` is called before."""

    handle: Callable[[Any, Context], Any]
    initialize: Callable[[Context], Any]


def find_entry(manifest: Manifest) -> Entry:
    """Import the handler's module and return its entry. Raises ModelError."""
    script = manifest.script
    module = import_built_in(manifest) if script is None else import_file(script)
    handle = getattr(module, manifest.function or "handle", None)
    if callable(handle):
        return Entry(handle, lambda context: handle(None, context))
    if manifest.function is not None:
        raise ModelError(f"{module.__file__} has no function {manifest.function}")
    return entry_of_class(module)


def entry_of_class(module: ModuleType) -> Entry:
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    fit = [one for one in own if callable(getattr(one, "initialize", None)) and callable(getattr(one, "handle", None))]
    if len(fit) != 1:
        names = ", ".join(one.__name__ for one in own) or "none"
        raise ModelError(
            f"{module.__file__} must hold a function handle(data, context) or one class with initialize and handle; "
            f"its classes: {names}"
        )
    handler: Any = fit[0]()
    return Entry(handler.handle, handler.initialize)


def import_built_in(manifest: Manifest) -> ModuleType:
    return guarded(f"the built-in handler {manifest.module}", lambda: built_in(manifest.module))


def built_in(name: str) -> ModuleType:
    return importlib.import_module(f"ts.torch_handler.{name}")


def import_file(path: Path) -> ModuleType:
    """Import by path: a name such as ``handler`` or ``model`` may be taken by another module."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return guarded(str(path), lambda: load_file(path))


def load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if path.stem not in sys.stdlib_module_names:
        sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def guarded(what: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except ModelError:
        raise
    except BaseException as exc:
        log.error("the handler cannot be imported", exc=exc, handler=what)
        raise ModelError(f"importing {what} failed: {surroundings.describe(exc)}") from exc
