"""Outputs: a TorchServe handler's result for one request, as bytes."""

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
    """Return the bytes of one answer, and their default type. Raises CodedError.

    A tensor becomes a ``torch.save`` file, as TorchServe's clients read it; anything but bytes and text becomes JSON.
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
    """Return the handler's content type, else the accepted one where text or bytes may be that."""
    content_type = processor.get_response_header(CONTENT_TYPE)
    if content_type:
        return content_type
    return JSON if usual == JSON else concrete(request.accept) or usual


def attributes_of(processor: RequestProcessor, request: Request) -> str | None:
    """Return the only other header that the platform passes on. Logs each dropped header once."""
    for name in processor.get_response_headers():
        if name.lower() not in (CONTENT_TYPE, CUSTOM_ATTRIBUTES) and name not in _dropped and len(_dropped) < 100:
            _dropped.add(name)
            log.warning("a response header is dropped: the platform passes none on", header=name)
    return processor.get_response_header(CUSTOM_ATTRIBUTES)


def response_of(value: Any, processor: RequestProcessor, request: Request) -> Response:
    """Return the response for a result. Raises CodedError for one that cannot be encoded."""
    body, usual = coded(value)
    kind = content_type_of(processor, usual, request) or usual
    return Response(body, kind, processor.get_response_status_code(), attributes_of(processor, request))
