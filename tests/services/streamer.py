"""Answers in pieces, as the body says: ``{"n": 3, "delay": 0.1, "fail_at": 1, "hang_at": 2, "size": 10, "type": …,
"end": "\\r"}``; ``end`` is what each piece ends with.

What happened to each generator is written to the file that the option ``trace`` names.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from serving import BadRequest, BatchPolicy, Handler, Request, StreamingResponse


class Base(Handler):
    line, blank = "\n", "\n\n"

    def load(self, model_dir: Path, device: str, trace: str = "") -> None:
        self.path = Path(trace) if trace else None

    def trace(self, event: str, name: str) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps([event, name, time.monotonic()]) + "\n")

    def decode(self, request: Request) -> dict[str, Any]:
        wish: dict[str, Any] = json.loads(bytes(request.body))
        return wish

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return batch

    def piece(self, wish: dict[str, Any], i: int) -> bytes:
        if i == wish.get("fail_at"):
            raise BadRequest("a bad one") if wish.get("client") else ValueError("no more")
        if i == wish.get("crash_at"):
            ctypes.string_at(0)
        stamp = f"{time.monotonic():.6f}" if wish.get("stamp") else str(i)
        if wish.get("type") == "text/event-stream":
            return f"data: {stamp}{wish.get('end', self.blank)}".encode()
        return f"{stamp}{wish.get('end', self.line)}".encode().ljust(wish.get("size", 0), b".")

    def wrap(self, wish: dict[str, Any], pieces: Any) -> Any:
        if "type" not in wish and "attributes" not in wish:
            return pieces
        return StreamingResponse(pieces, wish.get("type"), wish.get("status", 200), wish.get("attributes"))


class Streamer(Base):
    """One generator for each request of a batch."""

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        return self.wrap(output, self.pieces(output, request.request_id))

    def pieces(self, wish: dict[str, Any], name: str) -> Iterator[bytes]:
        self.trace("begin", name)
        try:
            for i in range(wish["n"]):
                if i == wish.get("hang_at"):
                    time.sleep(1000)
                time.sleep(wish.get("delay", 0.0))
                yield self.piece(wish, i)
        finally:
            self.trace("end", name)


class AsyncStreamer(Base):
    """The same on the event loop; ``block_at`` holds up the loop itself."""

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        if output.get("plain"):
            return "plain"
        return self.wrap(output, self.pieces(output, request.request_id))

    async def pieces(self, wish: dict[str, Any], name: str) -> AsyncIterator[bytes]:
        self.trace("begin", name)
        try:
            for i in range(wish["n"]):
                if i == wish.get("block_at"):
                    time.sleep(1000)  # noqa: ASYNC251
                await asyncio.sleep(1000 if i == wish.get("hang_at") else wish.get("delay", 0.0))
                yield self.piece(wish, i)
        finally:
            self.trace("end", name)


class Tokens(Base):
    """``predict`` itself is a generator."""

    policy = BatchPolicy(max_size=1)

    def predict(self, batch: list[dict[str, Any]]) -> Iterator[str]:  # type: ignore[override]
        for i in range(batch[0]["n"]):
            yield f"{i} "


class Chat(Base):
    """Takes the path of OpenAI's API."""

    post_paths = ("/v1/chat/completions",)

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        if request.path == "/invocations":
            return {"path": request.path}
        if not output.get("stream"):
            return {"object": "chat.completion", "path": request.path, "model": output.get("model")}
        return StreamingResponse(self.chunks(), "text/event-stream")

    def chunks(self) -> Iterator[str]:
        for word in ("one", "two"):
            yield f"data: {json.dumps({'object': 'chat.completion.chunk', 'content': word})}\n\n"
        yield "data: [DONE]\n\n"
