"""Announcements: what a server says to the person who runs it: how to call it once it is ready, why it cannot serve."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path

from serving.model.model import Model
from serving.system import log

ANYWHERE = ("0.0.0.0", "::", "127.0.0.1", "::1")


def welcome(host: str, port: int, model: Model | None) -> str:
    """Return the server's URL and a command that calls it: with the model's own sample where there is one; without a
    model, a list of the store's models.
    """
    name = "localhost" if host in ANYWHERE else f"[{host}]" if ":" in host else host
    url = f"http://{name}:{port}"
    return f"ready on {url}; try: {call(url, model)}"


def call(url: str, model: Model | None) -> str:
    if model is None:
        return f"curl {url}/models"
    from serving.model.samples import content_type, samples

    found = samples(Path(model.path))
    if not found:
        return f"curl {url}/ping"
    kind, file = shlex.quote(f"Content-Type: {content_type(found[0])}"), shlex.quote(f"@{found[0]}")
    return f"curl -H {kind} --data-binary {file} {url}/invocations"


def cannot_serve(why: str) -> None:
    """Log the reason. It is also printed to standard error, unless that is the same stream as the log, for readers of
    it alone.
    """
    log.error(f"cannot serve: {why}")
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed
        if not is_one_stream():
            print(f"serving: cannot serve: {why}", file=sys.stderr, flush=True)


def is_one_stream() -> bool:
    return os.path.samestat(os.fstat(1), os.fstat(2))
