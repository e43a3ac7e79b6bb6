"""Request and Response: a handler's input and output. Frozen; a body is bytes-like and never parsed here."""

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
Chunk = bytes | bytearray | memoryview | str
Chunks = Iterable[Chunk] | AsyncIterable[Chunk]

USUAL = 256  # characters of a header's value up to which its parsed form is cached
BODILESS = frozenset({204, 205, 304})  # statuses of responses without a body
NO_DEADLINE = Deadline(float("inf"))
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
PREFIX = "x-amzn-sagemaker-"
TRACEPARENT = re.compile("[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


def media_type(value: str) -> str:
    """Return the bare media type of a Content-Type value, in lower case and without parameters."""
    return _media_type(value) if len(value) <= USUAL else _media_type.__wrapped__(value)


@lru_cache(1024)
def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


class Client(msgspec.Struct, eq=False):
    """The client of a request. ``gone`` becomes true when it no longer waits for the response."""

    gone: bool = False


class Request(msgspec.Struct, frozen=True):
    """One call of ``POST /invocations``.

    ``body`` is bytes-like (``np.frombuffer`` works on it). ``content_type`` and ``accept`` are as the client sent them,
    ``""`` where it sent none. ``sagemaker`` holds the ``X-Amzn-SageMaker-*`` headers, names in lower case and without
    that prefix; the properties below are its typed view. ``session`` is the client's session, if it has one. ``path``
    is the requested one of the handler's paths. ``content_encoding`` is the body's compression: always "" in a handler.
    ``record`` is the number, from 1, of a record that came in a body of many; otherwise 0. ``client.gone`` tells long
    work that it can stop. ``headers`` are those HTTP headers that the handler asks for by its own ``headers``, names in
    lower case.
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
        """The type of the body, in lower case and without parameters."""
        return media_type(self.content_type)

    @property
    def custom_attributes(self) -> str | None:
        """``X-Amzn-SageMaker-Custom-Attributes``, verbatim."""
        return self.sagemaker.get("custom-attributes")

    @property
    def attributes(self) -> dict[str, str]:
        """Custom attributes as ``k=v`` pairs separated by ``,`` or ``;``; a part without ``=`` maps to ``""``."""
        pairs = (part.partition("=") for part in (self.custom_attributes or "").replace(";", ",").split(","))
        return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}

    @property
    def traceparent(self) -> str | None:
        """A W3C trace context in the custom attributes, ``traceparent=00-…``; the platform passes no other header for
        it.
        """
        value = self.attributes.get("traceparent", "")
        return value if TRACEPARENT.fullmatch(value) else None

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that this request belongs to, 32 hexadecimal digits."""
        return self.traceparent.split("-")[1] if self.traceparent is not None else None

    @property
    def target_model(self) -> str | None:
        """``X-Amzn-SageMaker-Target-Model``."""
        return self.sagemaker.get("target-model")

    @property
    def target_variant(self) -> str | None:
        """``X-Amzn-SageMaker-Target-Variant``."""
        return self.sagemaker.get("target-variant")

    @property
    def target_container_hostname(self) -> str | None:
        """``X-Amzn-SageMaker-Target-Container-Hostname``."""
        return self.sagemaker.get("target-container-hostname")

    @property
    def inference_id(self) -> str | None:
        """``X-Amzn-SageMaker-Inference-Id``."""
        return self.sagemaker.get("inference-id")

    @property
    def inference_component(self) -> str | None:
        """``X-Amzn-SageMaker-Inference-Component``."""
        return self.sagemaker.get("inference-component")

    @property
    def enable_explanations(self) -> str | None:
        """``X-Amzn-SageMaker-Enable-Explanations``."""
        return self.sagemaker.get("enable-explanations")

    @property
    def session_id(self) -> str | None:
        """``X-Amzn-SageMaker-Session-Id``."""
        return self.sagemaker.get("session-id")

    @property
    def adapter_identifier(self) -> str | None:
        """``X-Amzn-SageMaker-Adapter-Identifier``."""
        return self.sagemaker.get("adapter-identifier")

    @property
    def forwarded_api(self) -> str | None:
        """``X-Amzn-SageMaker-Forwarded-Api``."""
        return self.sagemaker.get("forwarded-api")


class Response(msgspec.Struct, frozen=True):
    """One response. ``custom_attributes`` becomes ``X-Amzn-SageMaker-Custom-Attributes`` (printable ASCII, ≤ 1024).

    ``new_session`` and ``closed_session`` are filled by the server.
    """

    body: Body = b""
    content_type: str = "application/octet-stream"
    status: int = 200
    custom_attributes: str | None = None
    new_session: str | None = None
    closed_session: str | None = None

    def json(self) -> Any:
        """Return the content of a JSON body. Raises ValueError for any other body."""
        return msgspec.json.decode(self.body)


@dataclass(frozen=True, slots=True)
class StreamingResponse:
    """A streamed response, whose ``pieces`` are each sent as soon as they are there, a str as UTF-8.

    The head is sent with the first piece, so that an earlier failure has its proper status. ``content_type`` None means
    the type that the client accepts, if it names one, otherwise ``text/plain`` or ``application/octet-stream`` as the
    first piece is text or bytes.
    """

    pieces: Chunks
    content_type: str | None = None
    status: int = 200
    custom_attributes: str | None = None
    late: Callable[[], StreamingResponse] | None = None
    """Called when the first piece is there; the head is taken from the StreamingResponse that it returns."""
