"""Shims: modules of other servers' packages that scripts import, put in place where the real ones are not installed.

Only model workers do that, each for itself; nothing else of ours imports them. Children that do not fork begin without
them, but with this process's path: there the files of ``standins`` are found, which put them in place once more.
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
    """Make ``package`` importable with these modules, named from below it ("" is the package itself), and what is in
    them; False where a real one is there, which then counts."""
    if is_there(package):
        return False
    let_children_find()
    assert Path(HOME, f"{package}.py").is_file(), "children are to find it, too"
    made = {name: make(f"{package}.{name}" if name else package, members) for name, members in modules.items()}
    for name in list(made):
        while "." in name:  # what lies between is a package, too
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
    """Whether it is imported, or a real one could be."""
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
    """In a child: what ``module.install`` puts in place takes that of the file that was found under this name."""
    del sys.modules[name]
    importlib.import_module(module).install()


def make(name: str, members: Mapping[str, object]) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # so that it may have modules below it
    module.__spec__ = ModuleSpec(name, None, is_package=True)  # without one whoever looks for it gets an error
    vars(module).update(members)
    return module
