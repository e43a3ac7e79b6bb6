"""Denial: the HTTP response to a WebSocket handshake that is not accepted, the last one on its connection."""

from __future__ import annotations

import http
import os
from dataclasses import dataclass, field
from typing import Self

from starlette.types import Message

from serving.errors import ServingError
from serving.frontend.error_responses import Api, Failure, json_body, report
from serving.frontend.http.headers import Headers, request_id_header
from serving.frontend.websocket.handshake import check

VERSION = b"13"  # of the protocol (RFC 6455 §4.1)
API = Api(error_sent="a WebSocket was refused")


@dataclass(slots=True)
class Denial:
    """One response. The app may send its body in pieces."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""

    @classmethod
    def begin(cls, message: Message) -> Self:
        """Return the denial that ``websocket.http.response.start`` begins. Raises RuntimeError for another status."""
        if not 200 <= message["status"] < 600:
            raise RuntimeError(f"{message['status']} is no status of a refusal")
        return cls(message["status"], list(message.get("headers", [])))

    @classmethod
    def of(cls, error: ServingError) -> Self:
        """Report an error, and return the denial that tells the client of it."""
        request_id = os.urandom(8).hex()
        failure = report(error, API, request_id)
        headers = [request_id_header(request_id), *headers_of(failure)]
        return cls(failure.status, headers, json_body(failure, request_id))

    def encoded(self, default_headers: Headers) -> bytes:
        """Return the whole response. Raises RuntimeError for what is no header."""
        headers = default_headers + self.headers
        check(headers)
        phrase = http.HTTPStatus(self.status).phrase if self.status in set(http.HTTPStatus) else ""
        kept = [(name, value) for name, value in headers if name.lower() not in (b"content-length", b"connection")]
        own = [(b"content-length", str(len(self.body)).encode()), (b"connection", b"close")]
        lines = [name + b": " + value for name, value in kept + own]
        return b"\r\n".join([f"HTTP/1.1 {self.status} {phrase}".encode(), *lines, b"", b""]) + self.body


def headers_of(failure: Failure) -> Headers:
    headers = [(b"content-type", b"application/json")]
    if failure.status == http.HTTPStatus.UPGRADE_REQUIRED:  # RFC 6455 §4.4, RFC 9110 §15.5.22
        headers += [(b"upgrade", b"websocket"), (b"sec-websocket-version", VERSION)]
    return headers + failure.headers
