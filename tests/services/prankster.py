"""Answers in pieces that go wrong in unusual ways: ``{"do": …}``."""

from __future__ import annotations

import asyncio
import ctypes
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from serving import Handler, Request, StreamingResponse


class Teller(Exception):
    status_code = 400

    def __str__(self) -> str:
        raise RuntimeError("it cannot be told")


class Prankster(Handler):
    def decode(self, request: Request) -> dict[str, Any]:
        wish: dict[str, Any] = json.loads(bytes(request.body))
        return wish

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(max(wish.get("predict", 0.0) for wish in batch))
        return batch

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        do = output["do"]
        if do == "attributes":
            return StreamingResponse(self.large(output), custom_attributes="x" * 70_000)
        return "plain" if do == "plain" else getattr(self, do)(output)

    def large(self, wish: dict[str, Any]) -> Iterator[bytes]:
        for _ in range(3):
            yield b"." * wish.get("size", 1)

    def crash(self, wish: dict[str, Any]) -> Iterator[bytes]:
        yield b"first"
        ctypes.string_at(0)

    def tell(self, wish: dict[str, Any]) -> Iterator[bytes]:
        raise Teller
        yield b""

    def fail(self, wish: dict[str, Any]) -> Iterator[bytes]:
        yield b"first"
        time.sleep(0.2)
        raise ValueError

    async def nothing(self, wish: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b"first"

    async def compute(self, wish: dict[str, Any]) -> AsyncIterator[bytes]:
        for _ in range(60):
            time.sleep(0.05)  # noqa: ASYNC251
            yield b"."

    async def linger(self, wish: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1000)
