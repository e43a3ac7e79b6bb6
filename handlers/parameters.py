"""Parameters: a request's options for its answer, as ``{"inputs": …, "parameters": {"top_k": 2}}``.

In a form they are the field ``parameters`` with such an object.
"""

from __future__ import annotations

import re
from typing import Any

from handlers.wrapped import FORM, parameters_in
from serving import BadRequest, Request, codecs

OBJECT = re.compile(rb"\s*\{")  # an untyped body may be a picture that happens to contain the word
NAME = b"parameters"
TOP_K = ("top_k", "topk")


def parameters_of(request: Request) -> dict[str, Any]:
    """Return a request's parameters. Raises BadRequest where they are not an object."""
    if request.media_type == FORM:
        body = bytes(request.body)
        return checked(parameters_in(body, request.content_type) if NAME in body else None)
    is_json = request.media_type == codecs.JSON or (request.media_type == "" and OBJECT.match(request.body))
    if not is_json or NAME not in codecs.utf8(request.body, request.content_type):
        return {}
    value = codecs.parse_json(request.body, request.content_type)
    return checked(value.get("parameters") if isinstance(value, dict) else None)


def checked(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict | None):
        raise BadRequest("parameters is a JSON object")
    return found or {}


def refuse_parameters(request: Request) -> None:
    """Raise BadRequest where the request has parameters, for a handler without any."""
    check_known(parameters_of(request), ())


def top_k_of(request: Request, usual: int, most: int) -> int:
    """Return how many of the best a request wants, 1 to ``most``. Raises BadRequest, also for other parameters."""
    found = parameters_of(request)
    check_known(found, TOP_K)
    value = next((found[name] for name in TOP_K if found.get(name) is not None), usual)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise BadRequest(f"top_k is {value!r}; allowed: 1 to {most}")
    return value


def check_known(found: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(found.keys() - set(known))
    if unknown:
        there = f"known: {known[0]}" if known else "this model has none"
        raise BadRequest(f"parameters has {unknown[0][:80]!r}; {there}")
