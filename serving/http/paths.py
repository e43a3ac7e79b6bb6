"""The server's own paths, and the paths that a handler may add."""

from __future__ import annotations

import re

PING = "/ping"
INVOCATIONS = "/invocations"
BIDIRECTIONAL = "/invocations-bidirectional-stream"
MODELS, INVOKE = "/models/", "/invoke"
PATTERN = re.compile(r"(/[A-Za-z0-9\-._]+)+")  # what the platform's ModelInvocationPath can name
LIMIT = 101
OWN = frozenset(
    {"ping", "invocations", BIDIRECTIONAL[1:], "models", "endpoints", "metrics", "execution-parameters", "v2", ""}
)


def is_own(path: str) -> bool:
    """Return whether the first part of the path is one of the server's own."""
    return path[1:].partition("/")[0] in OWN


def may_be_taken(path: str) -> bool:
    return PATTERN.fullmatch(path) is not None and len(path) <= LIMIT and not is_own(path)


def invoked_model(path: str) -> str | None:
    """Return the name in ``/models/{name}/invoke``, None for another path. A model may itself be called ``invoke``."""
    if path.startswith(MODELS) and path.endswith(INVOKE) and len(path) > len(MODELS + INVOKE):
        return path[len(MODELS) : -len(INVOKE)]
    return None
