"""A small HTTP/1.1 client on asyncio streams: one keep-alive connection, answers in order."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code of an error answer."""
        return str(self.json()["error"]["code"])


class Client:
    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._writer.close()
            self._reader = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self._reader, self._writer

    async def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        """Raises ConnectionError or IncompleteReadError where the server closed instead of answering."""
        started = time.monotonic()
        reader, writer = await self.connect()
        lines = {"host": "localhost", "content-length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        await writer.drain()
        answer = await read_answer(reader, method, started)
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def invoke(self, body: Any, **headers: str) -> Answer:
        """POST /invocations; what is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.request("POST", "/invocations", data, fields)

    async def ping(self) -> Answer:
        return await self.request("GET", "/ping")


async def read_answer(reader: asyncio.StreamReader, method: str, started: float) -> Answer:
    status_line = await reader.readuntil(b"\r\n")
    status = int(status_line.split(b" ")[1])
    headers = {}
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if status == 100:
        return await read_answer(reader, method, started)
    size = 0 if method == "HEAD" else int(headers.get("content-length", 0))
    body = await reader.readexactly(size)
    return Answer(status, headers, body, time.monotonic() - started)


async def once(port: int, body: Any, **headers: str) -> Answer:
    """One invocation on a connection of its own."""
    async with Client(port) as client:
        return await client.invoke(body, **headers)
