"""Answers with the body it was sent, as the same type, custom attributes included."""

from __future__ import annotations

from serving import BatchPolicy, Handler, Request, Response


class Echo(Handler):
    policy = BatchPolicy(max_size=32)

    def decode(self, request: Request) -> bytes:
        return bytes(request.body)

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return batch

    def encode(self, output: bytes, request: Request) -> Response:
        content_type = request.content_type or "application/octet-stream"
        return Response(output, content_type, custom_attributes=request.custom_attributes)
