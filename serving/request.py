"""Request and Response: what a handler gets and gives. Frozen; a body is bytes-like and never parsed here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec

from serving.deadline import Deadline
from serving.http.paths import INVOCATIONS
from serving.session import Session

Body = bytes | bytearray | memoryview
Piece = bytes | bytearray | memoryview | str
Pieces = Iterable[Piece] | AsyncIterable[Piece]

USUAL = 256  # characters of a header's value up to which what it says is remembered
BODILESS = frozenset({204, 205, 304})  # statuses of answers without a body
NO_DEADLINE = Deadline(float("inf"))
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
PREFIX = "x-amzn-sagemaker-"
TRACEPARENT = re.compile("[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


def media_type(value: str) -> str:
    """The bare media type of a Content-Type value, lower case and without parameters."""
    return _media_type(value) if len(value) <= USUAL else _media_type.__wrapped__(value)


@lru_cache(1024)
def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


class Client(msgspec.Struct, eq=False):
    """Who asked. ``gone`` becomes true when nobody waits for the answer any more."""

    gone: bool = False


class Request(msgspec.Struct, frozen=True):
    """One call of ``POST /invocations``.

    ``body`` is bytes-like (``np.frombuffer`` works on it). ``content_type`` and ``accept`` are as the client sent
    them, ``""`` where it sent none. ``sagemaker`` holds the ``X-Amzn-SageMaker-*`` headers, names in lower case and
    without that prefix; the properties below are its typed view. ``session`` is the client's session, if it has one.
    ``path`` tells apart the paths that a handler takes. ``content_encoding`` is how the body is packed: "" where a
    handler sees it. ``record`` is the number, from 1, of what was one of many records in the body that came; 0
    elsewhere. Long work may look at ``client.gone`` now and then.
    ``headers`` are those of the HTTP request that the handler asks for by its own ``headers``, names in lower case.
    """

    body: Body = b""
    content_type: str = ""
    accept: str = ""
    request_id: str = ""
    deadline: Deadline = NO_DEADLINE
    model: str = ""
    sagemaker: Mapping[str, str] = NO_HEADERS
    session: Session | None = None
    path: str = INVOCATIONS
    content_encoding: str = ""
    record: int = 0
    client: Client = msgspec.field(default_factory=Client)
    headers: Mapping[str, str] = NO_HEADERS

    @property
    def media_type(self) -> str:
        return media_type(self.content_type)

    @property
    def custom_attributes(self) -> str | None:
        """``X-Amzn-SageMaker-Custom-Attributes``, verbatim."""
        return self.sagemaker.get("custom-attributes")

    @property
    def attributes(self) -> dict[str, str]:
        """Custom attributes read as ``k=v`` pairs separated by ``,`` or ``;``; a part without ``=`` maps to ``""``."""
        pairs = (part.partition("=") for part in (self.custom_attributes or "").replace(";", ",").split(","))
        return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}

    @property
    def traceparent(self) -> str | None:
        """A W3C trace context in the custom attributes, ``traceparent=00-…``, the only way for one to get here."""
        value = self.attributes.get("traceparent", "")
        return value if TRACEPARENT.fullmatch(value) else None

    @property
    def trace_id(self) -> str | None:
        """The trace that this request is part of, 32 hexadecimal digits."""
        return self.traceparent.split("-")[1] if self.traceparent is not None else None

    @property
    def target_model(self) -> str | None:
        return self.sagemaker.get("target-model")

    @property
    def target_variant(self) -> str | None:
        return self.sagemaker.get("target-variant")

    @property
    def target_container_hostname(self) -> str | None:
        return self.sagemaker.get("target-container-hostname")

    @property
    def inference_id(self) -> str | None:
        return self.sagemaker.get("inference-id")

    @property
    def inference_component(self) -> str | None:
        return self.sagemaker.get("inference-component")

    @property
    def enable_explanations(self) -> str | None:
        return self.sagemaker.get("enable-explanations")

    @property
    def session_id(self) -> str | None:
        return self.sagemaker.get("session-id")

    @property
    def adapter_identifier(self) -> str | None:
        return self.sagemaker.get("adapter-identifier")

    @property
    def forwarded_api(self) -> str | None:
        return self.sagemaker.get("forwarded-api")


class Response(msgspec.Struct, frozen=True):
    """One answer. ``custom_attributes`` becomes ``X-Amzn-SageMaker-Custom-Attributes`` (printable ASCII, ≤ 1024).

    ``new_session`` and ``closed_session`` are the server's to fill.
    """

    body: Body = b""
    content_type: str = "application/octet-stream"
    status: int = 200
    custom_attributes: str | None = None
    new_session: str | None = None
    closed_session: str | None = None

    def json(self) -> Any:
        """What a body of JSON holds. Raises ValueError for another one."""
        return msgspec.json.decode(self.body)


@dataclass(frozen=True, slots=True)
class StreamingResponse:
    """An answer in pieces, each sent as soon as ``pieces`` gives it, a str as UTF-8.

    Its head leaves with the first piece, so that what fails before has its proper status. ``content_type`` None is the
    type that the client accepts, if it names one, else ``text/plain`` or ``application/octet-stream`` as the first
    piece is text or bytes.
    """

    pieces: Pieces
    content_type: str | None = None
    status: int = 200
    custom_attributes: str | None = None
    late: Callable[[], StreamingResponse] | None = None
    """Called when the first piece is there: the head is that of what it gives."""
