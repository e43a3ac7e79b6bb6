"""Call: one invocation that the platform's side asks of the container's side, in one process and without HTTP."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from starlette.types import ASGIApp, Message, Receive, Scope

from serving.frontend.answers import CUT
from serving.frontend.http.headers import Headers
from serving.system import log

FORWARDED_API = b"x-amzn-sagemaker-forwarded-api"


class Ending(Enum):
    """How a call ended."""

    COMPLETE = auto()  # the last of the body is there
    CUT = auto()  # the container cut its connection
    LEFT = auto()  # the application raised or returned before the end of its answer
    LATE = auto()
    GONE = auto()  # nobody waits for the answer any more


class Call:
    """Collects the container's answer. ``ended`` is settled once; what is sent afterwards is dropped, as by a
    connection that is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[Ending] = self._loop.create_future()
        self.status = 0
        self.headers: Headers = []
        self.body = bytearray()
        self.cut_code = ""

    def succeeded(self) -> bool:
        """Whether there is a head, of a success."""
        return 200 <= self.status < 300

    async def send(self, message: Message) -> None:
        if self.ended.done():
            return
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
            return
        self.body += message.get("body", b"")
        if not message.get("more_body", False):
            self.settle(Ending.COMPLETE)

    def cut(self, code: str) -> None:
        """The container closes its connection because of ``code``."""
        self.cut_code = code
        self.settle(Ending.CUT)

    def limit(self, seconds: float) -> None:
        """End so many seconds after the call's beginning, whatever was said before."""
        self.stop_timer()
        self._timer = self._loop.call_at(self._began + seconds, self.settle, Ending.LATE)

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def settle(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)


class Container:
    """The server's own application, asked as the platform asks a container."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, call: Call, scope: Scope, headers: Headers, receive: Receive, seconds: float) -> Ending:
        """How ``call`` ended, ``seconds`` from its beginning at the latest. ``scope`` is the client's own request."""

        async def watched() -> Message:
            if call.ended.done():
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                call.settle(Ending.GONE)
            return message

        call.limit(seconds)
        try:
            # Not ended with the call: the platform does not tell a container to stop, it closes the connection.
            self._start(call, inner_scope(scope, headers, call), watched)
            return await call.ended
        finally:
            call.stop_timer()

    def _start(self, call: Call, scope: Scope, receive: Receive) -> None:
        def leave(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("the container's side failed", exc=error)
            call.settle(Ending.LEFT)

        task = asyncio.ensure_future(self._run(call, scope, receive))
        self._tasks.add(task)
        task.add_done_callback(leave)

    async def _run(self, call: Call, scope: Scope, receive: Receive) -> None:
        await self._application(scope, receive, call.send)


def inner_scope(scope: Scope, headers: Headers, call: Call) -> Scope:
    return {
        **scope,
        "http_version": "1.1",
        "path": "/invocations",
        "raw_path": b"/invocations",
        "query_string": b"",
        "headers": headers,
        "extensions": {CUT: call.cut},
    }


def forwarded(headers: Headers, api: str) -> Headers:
    """The headers with the platform's own word on which of its operations was called."""
    return [*(pair for pair in headers if pair[0] != FORWARDED_API), (FORWARDED_API, api.encode())]
