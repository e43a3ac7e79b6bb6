"""LocalRuntime behind a real HTTP server on a loopback port; a scripted application stands in for the container."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import boto3
import uvicorn
from botocore.config import Config as ClientConfig
from botocore.eventstream import EventStreamBuffer
from starlette.types import Message, Receive, Scope, Send

from serving.frontend.http.protocol import HttpProtocol
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.head_reader import HeadReader
from serving.frontend.local.runtime import LocalRuntime
from tests.e2e.server import eventually

PATIENCE = 10.0  # seconds


class Exchange:
    """What a script does its part with: the request, and the verbs of a container's answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        self.scope, self.receive, self._send, self.body = scope, receive, send, body

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.scope["headers"]}

    async def head(self, status: int = 200, **headers: str) -> None:
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def part(self, data: bytes | memoryview, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
        await self.head(status, **headers)
        await self.part(data, last=True)

    def cut(self, code: str) -> None:
        self.scope["extensions"]["serving.cut"](code)

    async def until_gone(self) -> None:
        message: Message = await self.receive()
        assert message["type"] == "http.disconnect"


Script = Callable[[Exchange], Awaitable[None]]


class Bound(HttpProtocol):
    """The protocol in front of an application that answers every path."""

    endpoint = cast(Endpoint, SimpleNamespace(heads=HeadReader(many=False)))


class Scripted:
    """Stands in for the container; keeps what it was asked."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.seen: list[Exchange] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            more = message["more_body"]
        self.seen.append(Exchange(scope, receive, send, body))
        await self._script(self.seen[-1])


class Desk(NamedTuple):
    port: int
    container: Scripted
    running: list[Scope]  # calls that the platform's side has not finished

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        client = boto3.client(
            "sagemaker-runtime",
            region_name="eu-west-1",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="any",
            aws_secret_access_key="thing",
            config=ClientConfig(retries={"max_attempts": 0}, parameter_validation=False, read_timeout=PATIENCE),
        )
        with contextlib.closing(client):
            yield client

    @contextlib.contextmanager
    def post(self, path: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """The answer as it stands on the wire, head read and body not."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", f"/endpoints/my-endpoint/{path}", b"{}", dict(headers))
            with connection.getresponse() as answer:
                yield answer

    def events(self) -> list[tuple[dict[str, str], bytes]]:
        """Every message of one stream: its headers and its payload."""
        with self.post("invocations-response-stream", {}) as answer:
            buffer = EventStreamBuffer()
            buffer.add_data(answer.read())
            return [(event.headers, event.payload) for event in buffer]


@contextlib.contextmanager
def desk(script: Script, **settings: Any) -> Iterator[Desk]:
    """``settings`` are LocalRuntime's own."""
    container = Scripted(script)
    runtime = LocalRuntime(container, **settings)
    running: list[Scope] = []

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        running.append(scope)
        try:
            await runtime(scope, receive, send)
        finally:
            running.remove(scope)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(counted, http=Bound, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            eventually(lambda: server.started)
            yield Desk(listener.getsockname()[1], container, running)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


async def signal(event: threading.Event) -> None:
    """Wait for a test's word without holding up the loop."""
    assert await asyncio.to_thread(event.wait, PATIENCE)
