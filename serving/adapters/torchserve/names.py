"""The names that TorchServe's handlers import, ``ts`` and its submodules, where TorchServe is not installed.

They are installed only in the process of a model that needs them. A real ``ts``, or the model's own module of that
name, stays.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from serving.adapters import shims

VERSION = "0.12.0"  # the version of these names; handlers may read ``ts.__version__``
HOME = Path(__file__).parent / "ts"
STREAMING = ("ts.handler_utils.utils", "ts.protocol.otf_message_handler")


def install() -> None:
    if shims.is_there("ts"):
        return
    shims.let_children_find()
    package = ModuleType("ts", "The names of TorchServe, as this server has them.")
    package.__path__ = [str(HOME)]
    package.__spec__ = ModuleSpec("ts", None, is_package=True)  # ``find_spec`` fails without one
    package.__version__ = VERSION  # type: ignore[attr-defined]
    sys.modules["ts"] = package


def may_stream() -> bool:
    """Return whether a module that sends intermediate answers is imported."""
    return any(name in sys.modules for name in STREAMING)


def prediction_exception() -> type[Exception] | None:
    """Return PredictionException, where the model's code can have imported it."""
    found = getattr(sys.modules.get("ts.utils.util"), "PredictionException", None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
