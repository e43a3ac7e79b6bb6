"""``ts.handler_utils.timer``."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a handler's method to measure each call as the metric ``ts_handler_<method>``, in ms.

    Needs ``handler: {profile: true}`` in ``model-config.yaml``. On a GPU the time lasts until its work is done.
    """

    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        config = getattr(self.context, "model_yaml_config", None) or {}
        if not (config.get("handler") or {}).get("profile"):
            return function(self, *args, **options)
        started = time.perf_counter()
        result = function(self, *args, **options)
        wait_for_gpu()
        self.context.metrics.add_time(f"ts_handler_{function.__name__}", 1000 * (time.perf_counter() - started))
        return result

    return wrapper


def wait_for_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
