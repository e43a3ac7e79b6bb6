"""``ts.handler_utils.utils``: intermediate answers, and classes by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from serving.adapters.context import Context


def send_intermediate_predict_response(
    ret: Any, req_id_map: Mapping[int, str], message: str, code: int, context: Context
) -> None:
    """Send a chunk to each request of ``req_id_map``, whose keys are indices of the batch and of ``ret``.

    A ``code`` of 400 or more ends those answers with an error. Raises RuntimeError outside of a batch.
    """
    if context.cl_socket is None:
        raise RuntimeError("there is no request to answer")
    context.cl_socket.send(ret, req_id_map, message, code)


def import_class(class_name: str, module_prefix: str | None = None) -> type:
    """Return the class with a dotted name below ``module_prefix``. Raises ImportError."""
    *modules, name = ".".join(filter(None, [module_prefix, class_name])).split(".")
    if not modules or not name:
        raise ImportError(f"{class_name!r} names no class of a module")
    found = getattr(importlib.import_module(".".join(modules)), name, None)
    if found is None:
        raise ImportError(f"{'.'.join(modules)} has no {name}")
    return found  # type: ignore[no-any-return]
