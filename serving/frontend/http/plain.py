"""Plain: what the head of a plain invocation says."""

from __future__ import annotations

from typing import NamedTuple

from serving.frontend.http.headers import Headers


class Plain(NamedTuple):
    """``attributes`` are the custom ones, ``id`` is the client's own or "". Those of one connection are often alike."""

    url: bytes
    headers: Headers
    model: str
    load: bool
    content_type: str
    accept: str
    sagemaker: dict[str, str]
    attributes: str | None
    id: str
