"""Shims: modules of other servers' packages that scripts import, put in place where the real ones are not installed.

Only model workers do that, each for itself; nothing else of ours imports them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType


def install(package: str, modules: Mapping[str, Mapping[str, object]]) -> bool:
    """Make ``package`` importable with these modules, named from below it ("" is the package itself), and what is in
    them; False where a real one is there, which then counts."""
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return False
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


def make(name: str, members: Mapping[str, object]) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # so that it may have modules below it
    module.__spec__ = ModuleSpec(name, None, is_package=True)  # without one whoever looks for it gets an error
    vars(module).update(members)
    return module
