"""Problems: the errors for clients whose model is not available."""

from __future__ import annotations

import errno

from serving.errors import ModelError, ModelFailed, OutOfMemory, ServingError
from serving.ipc.messages import Placement, Problem
from serving.system import log


def gone(name: str, problem: Problem) -> Placement:
    return Placement(name, gone=True, problem=problem)


def problem_of(exc: Exception, name: str) -> Problem:
    """Return the problem for clients of a model that could not be opened."""
    if isinstance(exc, ServingError):
        return Problem.of(exc)
    if isinstance(exc, ModelError):
        return Problem.of(ModelFailed(f"model {name} cannot be served: {exc}"))
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.ENOMEM)):
        return Problem.of(OutOfMemory(f"there is no room to unpack model {name}"))
    log.error("a model could not be opened", exc=exc, model=name)
    return Problem.of(ModelFailed(f"model {name} cannot be read: {type(exc).__name__}"))
