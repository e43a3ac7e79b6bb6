"""Echoes and answers in pieces, in batches with requests that end the process: ``{"do": …, "id": …}``."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from gates import wait_at

from serving import BatchPolicy, Conversation, Handler, Request


class Mixed(Handler):
    policy = BatchPolicy(max_size=8, max_delay_ms=50)

    def decode(self, request: Request) -> dict[str, Any]:
        sample: dict[str, Any] = json.loads(bytes(request.body))
        if sample["do"] == "exit-in-decode":
            os._exit(3)
        return sample

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for sample in batch:
            if sample["do"] == "exit":
                os._exit(3)
            if "gate" in sample:
                wait_at(sample["gate"])
            time.sleep(sample.get("seconds", 0))
        return batch

    def encode(self, sample: dict[str, Any], request: Request) -> Any:
        match sample["do"]:
            case "stream":
                return self.pieces(sample)
            case "async":
                return self.async_pieces(sample)
        return {"id": sample["id"], "pid": os.getpid()}

    def pieces(self, sample: dict[str, Any]) -> Iterator[str]:
        for i in range(sample.get("n", 5)):
            time.sleep(sample.get("delay", 0.02))
            if i == sample.get("exit_at"):
                os._exit(3)
            yield f"{sample['id']}.{i} "

    async def async_pieces(self, sample: dict[str, Any]) -> AsyncIterator[str]:
        for i in range(sample.get("n", 5)):
            await asyncio.sleep(sample.get("delay", 0.02))
            if i == sample.get("exit_at"):
                os._exit(3)
            yield f"{sample['id']}.{i} "

    async def converse(self, stream: Conversation) -> None:
        async for message in stream:
            await stream.send(message.data, message.fin)
