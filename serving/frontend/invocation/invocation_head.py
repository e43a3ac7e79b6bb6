"""InvocationHead: the parsed head of one invocation."""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

from serving.deadline import Deadline
from serving.errors import ServingError
from serving.frontend.http.headers import Headers, SentHeaders, picked
from serving.http.paths import INVOCATIONS
from serving.request import Body, Request


class InvocationHead(NamedTuple):
    """The head of one invocation. Equal heads on one connection share it.

    ``model`` is "" where the default model must be found first. ``load``: a model that is not loaded is loaded.
    ``attributes`` are the custom attributes, ``id`` is the client's own request id or "". ``path`` is a handler's own
    path, "" for the server's. ``encoding`` is the body's content encoding, "" for none. ``continues``: it belongs to an
    open session. ``error`` is what is wrong with the head. ``is_plain``: any replica of ``model`` can answer it,
    without further checks.
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
    continues: bool
    error: ServingError | None
    is_plain: bool

    def picked(self, names: tuple[str, ...]) -> dict[str, str] | None:
        """Return those of the headers that are called ``names``."""
        return picked(SentHeaders(self.headers), names)

    def request(self, body: Body, request_id: str, deadline: Deadline) -> Request:
        """Return the request with this head and ``body``."""
        return Request(
            body,
            self.content_type,
            self.accept,
            request_id,
            deadline,
            self.model,
            MappingProxyType(self.sagemaker),
            path=self.path or INVOCATIONS,
            content_encoding=self.encoding,
            headers=SentHeaders(self.headers),
        )
