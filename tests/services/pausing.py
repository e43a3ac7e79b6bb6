"""Sleeps where the body says, ``{"at": "batch", "seconds": 0.5}``, or hangs there without ``seconds``; answers "ok".

Where: ``decode``, ``batch``, ``encode``, ``open`` and ``close`` of a session, the ``first`` and a ``later`` piece of a
generator, the ``async first`` and an ``async later`` one, the ``end`` of a generator whose client leaves.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from serving import Conversation, Handler, Request
from serving.session import Session

FOREVER = 600.0


class Pausing(Handler):
    def decode(self, request: Request) -> dict[str, Any]:
        wish: dict[str, Any] = json.loads(bytes(request.body))
        if request.session is not None:
            request.session.state["wish"] = wish
            if wish.get("at") == "close":
                request.session.close()
        self.pause(wish, "decode")
        return wish

    def bucket(self, sample: dict[str, Any]) -> str:
        return "one"

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for wish in batch:
            self.pause(wish, "batch")
        return batch

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        self.pause(output, "encode")
        if output.get("at") in ("first", "later", "end"):
            return self.pieces(output)
        if output.get("at") in ("async first", "async later", "stuck"):
            return self.async_pieces(output)
        return "ok"

    def pause(self, wish: dict[str, Any], where: str) -> None:
        if wish.get("at") == where:
            time.sleep(wish.get("seconds", FOREVER))

    def pieces(self, wish: dict[str, Any]) -> Iterator[str]:
        try:
            self.pause(wish, "first")
            for _ in range(wish.get("n", 2)):
                yield "ok" * 100
                time.sleep(wish.get("between", 0.0))
                self.pause(wish, "later")
        finally:
            self.pause(wish, "end")

    async def async_pieces(self, wish: dict[str, Any]) -> AsyncIterator[str]:
        if wish["at"] == "stuck":
            await asyncio.sleep(FOREVER)
        self.pause(wish, "async first")
        for _ in range(wish.get("n", 2)):
            yield "ok"
            await asyncio.sleep(0)
            self.pause(wish, "async later")

    async def converse(self, stream: Conversation) -> None:
        async for _ in stream:
            self.pause({"at": "converse"}, "converse")

    def on_session_open(self, session: Session) -> None:
        if session.state.get("wish"):
            self.pause(session.state["wish"], "open")

    def on_session_close(self, session: Session) -> None:
        self.pause(session.state["wish"], "close")


class Opens(Pausing):
    """Each session's opening hangs."""

    def on_session_open(self, session: Session) -> None:
        time.sleep(FOREVER)


class Threaded(Pausing):
    decode_threads = 2
