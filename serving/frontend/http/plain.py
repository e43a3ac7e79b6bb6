"""Plain: the content of a plain invocation's head."""

from __future__ import annotations

from typing import NamedTuple

from serving.frontend.http.headers import Headers


class Plain(NamedTuple):
    """The head of a plain invocation. ``attributes`` are the custom attributes; ``id`` is the client's own or "". It is
    shared by equal heads on one connection.
    """

    url: bytes
    headers: Headers
    model: str
    load: bool
    content_type: str
    accept: str
    sagemaker: dict[str, str]
    attributes: str | None
    id: str
