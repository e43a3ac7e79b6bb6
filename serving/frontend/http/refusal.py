"""Refusal: what a client is answered whose bytes are no request."""

from __future__ import annotations

import os

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving import errors
from serving.errors import ServingError
from serving.frontend.answers import JSON, log_error
from serving.frontend.http.headers import Headers, request_id_header

INFERENCE_ID = b"x-amzn-sagemaker-inference-id"


def refusal(error: ServingError, headers: Headers, defaults: Headers) -> bytes:
    """The whole answer, in the form of every other error, and the end of its connection.

    ``headers`` are the request's, as far as they are known; ``defaults`` are those of every answer.
    """
    request_id = next((value for name, value in headers if name == INFERENCE_ID), b"").decode("latin-1")[:64]
    request_id = request_id or os.urandom(8).hex()
    log_error(error, request_id)
    body = errors.body(error, request_id)
    lines: Headers = [
        *defaults,
        (b"content-type", JSON.encode()),
        request_id_header(request_id),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    return STATUS_LINE[error.status] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n" + body
