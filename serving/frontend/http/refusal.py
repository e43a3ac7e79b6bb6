"""Refusal: the response to bytes that are no request."""

from __future__ import annotations

import os

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.errors import ServingError
from serving.frontend.error_responses import json_body, report
from serving.frontend.http.headers import Headers, printable, request_id_header
from serving.frontend.responses import INVOCATION, JSON

INFERENCE_ID = b"x-amzn-sagemaker-inference-id"
TLS = b"\x16"  # the first byte of a TLS connection
PREFACE = b"PRI * HTTP/2"  # the beginning of HTTP/2 without an upgrade
CUT = "the lines of a head end with CR LF, and the empty line that ends it is the first one"
NAME = "a header is not a name, a colon right behind it, and a value"
VALUE = "a header's value has a control character"
LINES = "a line of the head does not end with CR LF"
LENGTH = "Content-Length must be one number"
ENCODING = "of transfer encodings only chunked is supported, once and last"
PROTOCOL = "the request line is not a method, a target without blanks, and HTTP/1.1"
VERSION = "the request line says a version of HTTP that is not spoken here; known: 1.1, 1.0"
# The parser's messages and our own words for them. Only the error's text depends on them.
WORDS = {
    "Expected HTTP/, RTSP/ or ICE/": PROTOCOL,
    "Invalid HTTP version": VERSION,
    "Invalid header token": NAME,
    "Invalid header value char": VALUE,
    "Unexpected whitespace after header value": "a header goes on in a second line, which is not allowed any more",
    "Expected CRLF after version": LINES,
    "Missing expected CR after header value": LINES,
    "Missing expected LF after header value": LINES,
    "Invalid character in Content-Length": LENGTH,
    "Content-Length overflow": LENGTH,
    "Empty Content-Length": LENGTH,
    "Duplicate Content-Length": LENGTH,
    "Transfer-Encoding can't be present with Content-Length": "the length of the body is said in two ways",
    "Content-Length can't be present with Transfer-Encoding": "the length of the body is said in two ways",
    "Request has invalid `Transfer-Encoding`": ENCODING,
    "Invalid `Transfer-Encoding` header value": ENCODING,
}


def refusal(error: ServingError, headers: Headers, defaults: Headers) -> bytes:
    """Return the whole response, in the form of every other error; it ends the connection.

    ``headers`` are the request's, as far as they are known; ``defaults`` are those of every response.
    """
    request_id = next((value for name, value in headers if name == INFERENCE_ID), b"").decode("latin-1")[:64]
    request_id = printable(request_id) or os.urandom(8).hex()
    failure = report(error, INVOCATION, request_id)
    body = json_body(failure, request_id)
    lines: Headers = [
        *defaults,
        (b"content-type", JSON.encode()),
        request_id_header(request_id),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    return STATUS_LINE[failure.status] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n" + body


def fault(exc: httptools.HttpParserError | None, data: bytes) -> str:
    """Return what is wrong with a head. ``exc`` is the parser's error, None where the parser sees another end of the
    head than we do; ``data`` is what it was given last.
    """
    if data.startswith(PREFACE):
        return "this is HTTP/2; the server speaks HTTP/1.1 here"
    if exc is None:
        return CUT
    if isinstance(exc, httptools.HttpParserInvalidMethodError):
        if data.startswith(TLS):
            return "this is TLS; the server speaks plain HTTP here"
        return "the request does not begin with a method of HTTP"
    if isinstance(exc, httptools.HttpParserInvalidURLError):
        return "the target in the request line is no path or URL"
    message = str(exc)
    return WORDS.get(message, f"the head of the request cannot be read: {message[:100]}")
