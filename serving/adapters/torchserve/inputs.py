"""Inputs: one request as the dict that a TorchServe handler gets in ``data``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from serving import codecs
from serving.adapters.context import RequestProcessor, headers_of
from serving.adapters.torchserve.forms import MULTIPART, URLENCODED, Field, multipart, urlencoded
from serving.errors import BadRequest
from serving.http.accept import parameters
from serving.request import Request
from serving.system import log


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way through the handler; ``fields`` are checked, their values not decoded yet.

    A failed batch is run again in parts, and handlers change their input: each run has its own values and processor.
    """

    request: Request
    fields: tuple[Field, ...]
    decodes: bool

    def data(self) -> dict[str, Any]:
        return {field.name: self._value(field) for field in self.fields}

    def processor(self) -> RequestProcessor:
        fields: dict[str, Any] = {field.name: {"content-type": field.content_type} for field in self.fields}
        return RequestProcessor(fields | headers_of(self.request) | dict.fromkeys(self.wishes, "True"))

    @property
    def wishes(self) -> tuple[str, ...]:
        """``explain`` and ``describe``: paths in TorchServe, custom attributes on the platform."""
        attributes = self.request.attributes
        return tuple(name for name in ("explain", "describe") if attributes.get(name, "").lower() == "true")

    def _value(self, field: Field) -> Any:
        """Return JSON as objects and text as str; all else, also what contradicts its type, as a bytearray."""
        try:
            if self.decodes and field.content_type == "application/json":
                return json.loads(field.value.decode())
            if self.decodes and field.content_type.startswith("text"):
                return field.value.decode()
        except (ValueError, RecursionError):
            log.warning("a body is not what its type says", request_id=self.request.request_id, type=field.content_type)
        return bytearray(field.value)


def plain_text(request: Request) -> bytes:
    """Return the body, with text as UTF-8, TorchServe's only encoding.

    Raises BadRequest and UnsupportedMediaType for text that does not match the charset it names.
    """
    body, kind = bytes(request.body), request.media_type
    if kind != codecs.JSON and not kind.startswith("text"):
        return body
    try:
        return codecs.decode_text(body, request.content_type).encode()
    except BadRequest:
        if "charset" in parameters(request.content_type):
            raise
        return body


def call_of(request: Request, decodes: bool) -> Call:
    """Read a request. Raises BadRequest for an invalid form."""
    body = plain_text(request) if decodes else bytes(request.body)
    if request.media_type == MULTIPART:
        return Call(request, tuple(multipart(body, request.content_type)), decodes)
    if request.media_type == URLENCODED:
        return Call(request, tuple(urlencoded(body)), decodes)
    return Call(request, (Field("body", body, request.media_type),), decodes)
