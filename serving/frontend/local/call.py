"""Call: one invocation from the platform's side to the container's side, in one process and without HTTP."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from starlette.types import ASGIApp, Message, Receive, Scope

from serving.frontend.http.headers import Headers
from serving.frontend.responses import CUT
from serving.system import log

FORWARDED_API = b"x-amzn-sagemaker-forwarded-api"


class Ending(Enum):
    """The ways in which a call ends."""

    COMPLETE = auto()  # the whole body has arrived
    CUT = auto()  # the container closed its connection
    LEFT = auto()  # the application raised or returned before the end of its response
    LATE = auto()
    GONE = auto()  # the client has disconnected


class Call:
    """Collects the container's response. ``ended`` is settled once; what is sent later is dropped, as on a closed
    connection.
    """

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
        """Return whether the response has begun, with a status of success."""
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
        """End the call: the container closes its connection because of ``code``."""
        self.cut_code = code
        self.settle(Ending.CUT)

    def limit(self, seconds: float) -> None:
        """End the call ``seconds`` after its beginning, in place of an earlier limit."""
        self.stop_timer()
        self._timer = self._loop.call_at(self._began + seconds, self.settle, Ending.LATE)

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def settle(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)


class Container:
    """The server's own application, called as the platform calls a container."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, call: Call, scope: Scope, headers: Headers, receive: Receive, seconds: float) -> Ending:
        """Run ``call`` and return how it ended, after ``seconds`` at the latest. ``scope`` is the client's own
        request.
        """

        async def watched() -> Message:
            if call.ended.done():
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                call.settle(Ending.GONE)
            return message

        call.limit(seconds)
        try:
            # The task outlives the call: the platform does not stop a container, it closes the connection.
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
    """Return the headers with the one in which the platform names the operation that was called."""
    return [*(pair for pair in headers if pair[0] != FORWARDED_API), (FORWARDED_API, api.encode())]
