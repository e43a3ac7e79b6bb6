"""InvocationHead: the parsed head of one invocation."""

from __future__ import annotations

from typing import NamedTuple

from serving.errors import ServingError
from serving.frontend.http.headers import Headers


class InvocationHead(NamedTuple):
    """The head of one invocation. Equal heads on one connection share it.

    ``model`` is "" where the default model must be found first. ``load``: a model that is not loaded is loaded.
    ``attributes`` are the custom attributes, ``id`` is the client's own request id or "". ``path`` is a handler's own
    path, "" for the server's. ``encoding`` is the body's content encoding, "" for none. ``error`` is what is wrong with
    the head. ``is_plain``: any replica of ``model`` can answer it, without further checks.
    """

    headers: Headers
    model: str
    load: bool
    content_type: str
    accept: str
    sagemaker: dict[str, str]
    attributes: str | None
    id: str
    path: str
    encoding: str
    error: ServingError | None
    is_plain: bool
