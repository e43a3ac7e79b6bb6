"""Conversations: an echo that does what a few words ask for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import torch

from serving import BadRequest, Conversation, ConversationClosed, Handler, Request, Unavailable


class Talker(Handler):
    websocket_paths = ("/v1/realtime",)

    def load(self, model_dir: Path, device: str, load_seconds: float = 0.0, name: str = "") -> None:
        time.sleep(load_seconds)

    def predict(self, batch: list[object]) -> list[int]:
        return [os.getpid()] * len(batch)

    def decode(self, request: Request) -> int:
        return 0

    async def converse(self, stream: Conversation) -> None:
        async for message in stream:
            word = message.data
            if not isinstance(word, str) or not word.startswith("!"):
                await stream.send(message.data, message.fin)
            elif word == "!about":
                about = {
                    "path": stream.path,
                    "query": stream.query,
                    "headers": dict(stream.headers),
                    "pid": os.getpid(),
                }
                await stream.send(json.dumps(about))
            elif word == "!close":
                await stream.close(4000, "as you wish")
            elif word == "!bad":
                raise BadRequest("no such word")
            elif word == "!fail":
                raise ValueError("broken")
            elif word == "!device-assert":
                error = torch.AcceleratorError("as a kernel's assert shows")
                error.error_code = 710
                raise error
            elif word == "!busy":
                raise Unavailable("later")
            elif word == "!wait":
                await asyncio.sleep(1000)
            elif word == "!leave":
                return
            elif word == "!block":
                time.sleep(1000)  # noqa: ASYNC251
            elif word == "!die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "!flood":
                await self.flood(stream)
            elif word == "!tick":
                while True:
                    await stream.send("tick")
                    await asyncio.sleep(0.1)
            elif word == "!think":
                await asyncio.sleep(2.5)
                await stream.send("a thought")
            elif word == "!sleep":
                await asyncio.sleep(1000)
        if stream.query == "last=words":
            try:
                await stream.send("too late")
            except ConversationClosed:
                Path(stream.headers["x-trace"]).write_text(f"{stream.close_code} {stream.close_reason}")  # noqa: ASYNC240

    async def flood(self, stream: Conversation) -> None:
        for i in range(100_000):
            await stream.send(b"%06d" % i + b"." * 10_000)
