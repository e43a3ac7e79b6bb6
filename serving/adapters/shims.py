"""Shims: stand-ins for modules of other servers' packages that scripts import, where the real ones are not installed.

Only model workers install them, each for itself; this server's own code never imports them. Child processes that do not
fork start without them, but with this process's path: there they find the files of ``standins``, which install them
again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

HOME = str(Path(__file__).parent / "standins")


def install(package: str, modules: Mapping[str, Mapping[str, object]]) -> bool:
    """Make ``package`` importable with these modules and members; module names are relative, "" is the package itself.

    Returns False where a real package exists, which then counts.
    """
    if is_there(package):
        return False
    let_children_find()
    assert Path(HOME, f"{package}.py").is_file(), "children are to find it, too"
    made = {name: make(f"{package}.{name}" if name else package, members) for name, members in modules.items()}
    for name in list(made):
        while "." in name:  # parent modules are packages, too
            name = name.rpartition(".")[0]
            if name not in made:
                made[name] = make(f"{package}.{name}", {})
    if "" not in made:
        made[""] = make(package, {})
    for name, module in made.items():
        sys.modules[module.__name__] = module
        if name:
            parent, _, last = name.rpartition(".")
            setattr(made[parent], last, module)
    return True


def is_there(package: str) -> bool:
    """Return whether a real package is imported or could be."""
    with without_standins():
        return package in sys.modules or importlib.util.find_spec(package) is not None


def let_children_find() -> None:
    if HOME not in sys.path:
        sys.path.append(HOME)


@contextlib.contextmanager
def without_standins() -> Iterator[None]:
    was_there = HOME in sys.path
    sys.path[:] = [folder for folder in sys.path if folder != HOME]
    try:
        yield
    finally:
        if was_there:
            let_children_find()


def stand_in(name: str, module: str) -> None:
    """Replace a stand-in file, in a child process, by the modules that ``module.install`` makes."""
    del sys.modules[name]
    importlib.import_module(module).install()


def make(name: str, members: Mapping[str, object]) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # makes it a package
    module.__spec__ = ModuleSpec(name, None, is_package=True)  # ``find_spec`` fails without one
    vars(module).update(members)
    return module
