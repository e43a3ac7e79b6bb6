"""Tells which HTTP headers it sees, whole or in pieces as the body says; talks on WebSockets, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from serving import BatchPolicy, Conversation, Handler, Request


class Teller(Handler):
    policy = BatchPolicy(max_size=8)
    headers = ("authorization", "X-Tenant", "cookie")
    post_paths = ("/v1/tell",)

    def decode(self, request: Request) -> dict[str, Any]:
        wish: dict[str, Any] = json.loads(bytes(request.body) or b"{}")
        if wish.get("fail"):
            raise RuntimeError("as asked")
        return wish

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return batch

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        told = {"headers": dict(request.headers), "id": request.request_id}
        return self.pieces(told) if output.get("pieces") else told

    def pieces(self, told: dict[str, Any]) -> Iterator[str]:
        yield json.dumps(told)

    async def converse(self, stream: Conversation) -> None:
        await stream.send(stream.request_id)
