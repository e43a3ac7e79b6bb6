"""Forks where and how the request says, ``{"at": …, "how": …}``, and waits for the child: the answer tells its exit
status, the worker's pid and how often it was called."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from serving import BadRequest, BatchPolicy, Conversation, Handler, Request, Session

STATUS: list[int] = []


def fork(how: str) -> None:
    """What the child does before it comes back, if it does."""
    if how == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=print, args=("within",))
        child.start()
        child.join()
        STATUS.append(child.exitcode or 0)
        return
    if how == "subprocess":
        STATUS.append(subprocess.run([sys.executable, "-c", "raise SystemExit(7)"]).returncode)
        return
    pid = os.fork()
    if pid:
        STATUS.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return
    match how:
        case "raise":
            raise ValueError("in a child")
        case "exit":
            raise SystemExit(7)
        case "refuse":
            raise BadRequest("in a child")
        case "end":
            os._exit(9)


class Forker(Handler):
    policy = BatchPolicy(max_size=4, max_delay_ms=5)

    def load(self, model_dir: Path, device: str, threads: int = 0, how: str = "return") -> None:
        self.decode_threads = threads
        self.calls = 0
        self.how = how
        fork(how)

    def warmup(self) -> None:
        fork(self.how)

    def maybe(self, at: str, wish: dict[str, Any]) -> None:
        if wish.get("at") == at:
            fork(wish["how"])

    def on_session_open(self, session: Session) -> None:
        fork("return")
        fork("raise")

    def on_session_close(self, session: Session) -> None:
        fork("return")
        fork("exit")

    def decode(self, request: Request) -> dict[str, Any]:
        wish: dict[str, Any] = json.loads(bytes(request.body))
        self.maybe("decode", wish)
        return wish

    def bucket(self, sample: dict[str, Any]) -> str:
        self.maybe("bucket", sample)
        return "one"

    def collate(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for wish in samples:
            self.maybe("collate", wish)
        return samples

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for wish in batch:
            self.maybe("predict", wish)
        self.calls += 1
        return batch

    def split(self, outputs: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
        for wish in outputs:
            self.maybe("split", wish)
        return outputs

    def encode(self, wish: dict[str, Any], request: Request) -> Any:
        self.maybe("encode", wish)
        if wish.get("at") == "stream":
            return self.pieces(wish)
        if wish.get("at") == "async":
            return self.async_pieces(wish)
        status, STATUS[:] = list(STATUS), []
        return {"pid": os.getpid(), "calls": self.calls, "status": status}

    def pieces(self, wish: dict[str, Any]) -> Iterator[str]:
        yield "a"
        fork(wish["how"])
        yield f"b{STATUS.pop() if STATUS else None}"

    async def async_pieces(self, wish: dict[str, Any]) -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(0)
        fork(wish["how"])
        yield f"b{STATUS.pop() if STATUS else None}"

    async def converse(self, stream: Conversation) -> None:
        async for message in stream:
            fork(str(message.data))
            await stream.send(str(STATUS.pop() if STATUS else None))
