"""The names that TorchServe's handlers import, ``ts`` and what is below it, where TorchServe is not installed.

They are put in place in the process of a model that needs them and nowhere else. A real ``ts``, or a module of that
name that the model brings itself, stays what it is.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from serving.adapters import shims

VERSION = "0.12.0"  # of the names, as handlers may ask for ``ts.__version__``
HOME = Path(__file__).parent / "ts"
STREAMING = ("ts.handler_utils.utils", "ts.protocol.otf_message_handler")


def install() -> None:
    if shims.is_there("ts"):
        return
    shims.let_children_find()
    package = ModuleType("ts", "The names of TorchServe, as this server has them.")
    package.__path__ = [str(HOME)]
    package.__spec__ = ModuleSpec("ts", None, is_package=True)  # without one whoever looks for it gets an error
    package.__version__ = VERSION  # type: ignore[attr-defined]
    sys.modules["ts"] = package


def may_stream() -> bool:
    """Whether something has imported what sends parts of an answer."""
    return any(name in sys.modules for name in STREAMING)


def prediction_exception() -> type[Exception] | None:
    """The class of that name, where the model's code can have got hold of it."""
    found = getattr(sys.modules.get("ts.utils.util"), "PredictionException", None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
