"""What holds for all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine than about us.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

# Under nohup what is started here would ignore this order, too; a handler is not handed on.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a model brings is for a process of its own, which ends with it. Here many of them share one, and there is
    more than one ``inference`` and ``handlers``."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    below = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if modules.get(name) is not module and str(getattr(module, "__file__", None) or "").startswith(below):
            del sys.modules[name]
            if name in modules:
                sys.modules[name] = modules[name]
