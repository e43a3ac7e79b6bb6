"""Lets one thing go wrong at one API, and notes what the client reads and what the log says.

Replica, supervisor, client and clock are played; everything between them is the server's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, cast

import msgspec

from serving.errors import ServingError
from serving.frontend.server import websocket_protocol
from serving.ipc.messages import ModelsCall, ModelsReply, Paths, Problem
from serving.ipc.wire import FrameKind, ReplyHead
from serving.system import log
from tests.contracts.build import CONFIG, TIMEOUT, Client, Door, Worker, door, learn, post, settle, the_loop

ID = "an-id"  # of every request, also where the server has made up one


class Line(NamedTuple):
    level: str
    message: str
    fields: dict[str, Any]
    traceback: str = ""


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[0] if record.exc_info else None
        fields = dict(cast(Any, record).fields)
        self.lines.append(
            Line(record.levelname.lower(), record.getMessage(), fields, raised.__name__ if raised else "")
        )


@contextmanager
def logged() -> Iterator[Log]:
    found, before = Log(), log.logger.level
    log.logger.addHandler(found)
    log.logger.setLevel(logging.DEBUG)
    try:
        yield found
    finally:
        log.logger.removeHandler(found)
        log.logger.setLevel(before)


def broken() -> float:
    raise ZeroDivisionError("a fault of ours")


PATHS = Paths(("/v2", "/own"), ("/talk",))
BODY = b"x" * 150_000
LONG = 2000.0  # seconds, after which a load has taken too long
HEADER = f"x-amzn-sagemaker-inference-id: {ID}"
UPGRADE = ["host: x", HEADER, "upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"]
LINES = {
    ("models", "fault"): "GET /models/a",
    ("models", "no path"): "GET /nothing",
    ("models", "no method"): "PUT /models",
}
KEY = f"sec-websocket-key: {'A' * 22}=="
NOISE = "a replica cannot be reached"


class Play:
    """One request to one API, and what goes wrong with it."""

    def __init__(self, api: str, event: str, one: Door, client: Client, worker: Worker) -> None:
        self.api = api
        self.event = event
        self.door = one
        self.client = client
        self.worker = worker
        self.read = b""

    async def ask(self) -> None:
        if self.event == "full":
            for _ in range(2):
                other = await self.door.client()
                other.send(post(b"y" * 140_000)[:-10])
                await settle()
        if self.event == "fault" and self.api in ("own", "v2", "websocket"):
            self.door.app.endpoint.invocations.clock = broken
        self.client.send(self.request())
        await settle()
        if self.api in ("text", "records"):
            kind = "text/plain" if self.api == "text" else "application/jsonlines"
            self.reply(FrameKind.BEGIN, ReplyHead(200, kind), b"first ")
        elif self.api == "conversation":
            self.reply(FrameKind.BEGIN, ReplyHead(200), b"")
        await settle()

    def request(self) -> bytes:
        if line := LINES.get((self.api, self.event)):
            return f"{line} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        if self.api == "models":
            body = b'{"model_name": "a", "url": "b"}' if self.event != "large" else b"x" * 40_000
            return post(body, "/models")[: -5 if self.event in ("slow", "leave") else None]
        if self.api in ("websocket", "conversation"):
            lines = ["GET /talk HTTP/1.1", *UPGRADE, *([KEY] if self.event != "torn" else []), "", ""]
            return "\r\n".join(lines).encode()
        path = {"v2": "/v2/models/m/infer", "own": "/own"}.get(self.api, "/invocations")
        if self.event in ("slow", "torn", "large", "full"):
            return post(BODY, path, HEADER)[: None if self.event == "large" else 100_000]
        return post(b"body", path, HEADER)

    def reply(self, kind: FrameKind, head: ReplyHead, body: bytes) -> None:
        self.worker.send(kind, self.worker.asked[-1], msgspec.msgpack.encode(head), body)

    def fail(self, error: ServingError) -> None:
        """The replica, or the supervisor, answers so."""
        again = getattr(error, "retry_after", 1)
        if self.api == "models":
            self.answer(Problem.of(error))
        else:
            kind = FrameKind.END if self.api in ("text", "records") else FrameKind.REPLY
            self.reply(kind, ReplyHead(error.status, code=error.code, retry_after=again), error.message.encode())

    def answer(self, problem: Problem | None = None) -> None:
        """The supervisor answers, with nothing in it but perhaps a problem."""
        desk = self.door.house.desk
        desk.replies[-1](ModelsReply(cast(ModelsCall, desk.words[-1]).id, problem))

    async def happen(self) -> None:
        if self.event == "stop":
            self.door.stop()
        elif self.event == "leave":
            self.client.leave()
            await settle()
            await the_loop().turn(4.0)
        elif self.event in ("deadline", "slow"):
            await the_loop().turn(LONG if self.api == "models" and self.event == "deadline" else TIMEOUT + 0.1)
        elif self.event == "torn" and self.api != "websocket":
            self.client.half_close()
        elif self.event == "died" or (self.event == "fault" and self.api == "exchange"):
            self.door.app.endpoint.invocations.clock = broken if self.event == "fault" else the_loop().time
            self.worker.die(self.worker.asked[-1])
        elif self.event == "fault" and self.api in ("text", "records"):
            self.door.app.bodies.clock = broken
            self.worker.piece(self.worker.asked[-1], b"z" * 100_000)
        elif self.event == "fault" and self.api == "models":
            self.answer()

    async def finish(self) -> str:
        """What the client has read, with the same id each time and without the date."""
        await settle()
        for _ in range(3):
            self.read += self.client.read()
            await the_loop().turn(0.0 if self.event == "error" else 1.0)
        found = re.sub(r"\r\n[Dd]ate: [^\r]*", "", self.read.decode("latin-1"))
        return found if self.api in ("text", "records") else found.removesuffix("END")


@asynccontextmanager
async def opened(api: str, event: str) -> AsyncIterator[tuple[Door, Worker]]:
    limit = 1000 if event == "large" else 0
    async with door(multi_model=api == "models", max_body=limit, body_memory=600_000) as one:
        one._config.ws_protocol_class = websocket_protocol(CONFIG, one.app)
        if api != "models":
            await learn(one)
        worker = await one.house.worker()
        one.house.place(worker, paths=PATHS)
        await settle()
        yield one, worker


async def play(it: Play, error: ServingError | None = None) -> tuple[str, list[Line]]:
    with logged() as log:
        await it.ask()
        if error is None:
            await it.happen()
        else:
            it.fail(error)
        read = await it.finish()
    return with_one_id(read, [line for line in log.lines if line.message != NOISE])


def with_one_id(read: str, lines: list[Line]) -> tuple[str, list[Line]]:
    """The same with ``ID`` for an id that the server has made up."""
    same = [
        one._replace(fields=one.fields | {"request_id": ID}) if "request_id" in one.fields else one for one in lines
    ]
    made = re.search(r"x-request-id: ([0-9a-f]{16})\r", read)
    size = re.search(r"content-length: (\d+)", read)
    if made is None or size is None:
        return read, same
    shorter = int(size[1]) - (len(made[1]) - len(ID)) * (read.count(made[1]) - 1)
    return read.replace(made[1], ID).replace(size[0], f"content-length: {shorter}"), same
