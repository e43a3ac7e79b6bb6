"""``ts.utils.timeit_decorator``."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from serving.system import log


def timeit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function to log the time of each call at level debug."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*args, **options)
        finally:
            log.debug("call", function=function.__qualname__, seconds=round(time.monotonic() - started, 6))

    return wrapper
