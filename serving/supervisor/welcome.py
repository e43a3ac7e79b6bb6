"""Welcome: the log line that shows a developer how to call a server that is ready."""

from __future__ import annotations

import shlex
from pathlib import Path

from serving.model.model import Model

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
