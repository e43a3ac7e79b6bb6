"""Outputs: what a TorchServe handler gives for one request, as bytes."""

from __future__ import annotations

import io
import json
from typing import Any

from serving.adapters.context import CONTENT_TYPE, CUSTOM_ATTRIBUTES, RequestProcessor
from serving.errors import CodedError
from serving.http.accept import concrete
from serving.request import Request, Response
from serving.system import log

TEXT, BYTES, JSON = "text/plain; charset=utf-8", "application/octet-stream", "application/json"

_dropped: set[str] = set()


def failed(message: str, code: str = "prediction_failed") -> CodedError:
    return CodedError(503, code, message)


def coded(value: Any) -> tuple[bytes, str]:
    """The bytes of one answer, and their type where the handler names none. Raises CodedError.

    A tensor becomes a file of ``torch.save``, as TorchServe's clients read it; anything but bytes and text, JSON.
    """
    import torch

    if isinstance(value, bytes | bytearray):
        return bytes(value), BYTES
    if isinstance(value, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue(), BYTES
    try:
        return (value.encode(), TEXT) if isinstance(value, str) else (json.dumps(value, indent=2).encode(), JSON)
    except (TypeError, ValueError, RecursionError) as exc:
        raise failed(f"Unsupported model output data type: {exc}", "unsupported_output") from exc


def content_type_of(processor: RequestProcessor, usual: str | None, request: Request) -> str | None:
    """The handler's word; else what the client asked for where the handler's text or bytes may be that."""
    said = processor.get_response_header(CONTENT_TYPE)
    if said:
        return said
    return JSON if usual == JSON else concrete(request.accept) or usual


def attributes_of(processor: RequestProcessor, request: Request) -> str | None:
    """The one other header that the platform passes on. Those that it does not are told of once."""
    for name in processor.get_response_headers():
        if name.lower() not in (CONTENT_TYPE, CUSTOM_ATTRIBUTES) and name not in _dropped and len(_dropped) < 100:
            _dropped.add(name)
            log.warning("a response header is dropped: the platform passes none on", header=name)
    return processor.get_response_header(CUSTOM_ATTRIBUTES)


def response_of(value: Any, processor: RequestProcessor, request: Request) -> Response:
    """Raises CodedError for a value that cannot be coded."""
    body, usual = coded(value)
    kind = content_type_of(processor, usual, request) or usual
    return Response(body, kind, processor.get_response_status_code(), attributes_of(processor, request))
