"""Answers with the body it was sent, after up to 4 ms, so that requests come while others are under way."""

from __future__ import annotations

import time

from serving import BatchPolicy, Handler, Request, Response


class Dawdler(Handler):
    policy = BatchPolicy(max_size=4)

    def decode(self, request: Request) -> bytes:
        return bytes(request.body)

    def predict(self, batch: list[bytes]) -> list[bytes]:
        time.sleep(0.004 * sum(batch[0][-2:]) / 510)
        return batch

    def encode(self, output: bytes, request: Request) -> Response:
        return Response(output, custom_attributes=request.custom_attributes)
