"""AsgiInvocations: invocations as an ASGI application, for callers in this process."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive, Scope, Send

from serving.frontend.http.headers import Headers
from serving.frontend.invocation.border import Outgoing
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.exchange import Exchange, open_exchange
from serving.frontend.responses import CUT, EncodedResponse
from serving.request import Body


class AsgiBorder:
    """Passes the response of one exchange to ASGI's ``send``, in order and one message at a time."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._messages: deque[Message] = deque()
        self._has_ended = False
        self._changed = asyncio.Event()
        self._is_empty = asyncio.Event()

    async def pump(self) -> None:
        """Send messages until the response is complete."""
        while self._messages or not self._has_ended:
            if not self._messages:
                self._is_empty.set()
                self._changed.clear()
                await self._changed.wait()
                continue
            message = self._messages.popleft()
            if message["type"] == CUT:
                self._scope["extensions"][CUT](message["code"])
            else:
                await self._send(message)

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        self._is_empty.clear()
        self._changed.set()

    def close(self) -> None:
        """Note that nothing more will be sent."""
        self._has_ended = True
        self._changed.set()

    def go_ahead(self) -> None:
        """Do nothing: the caller is asked for the body part by part."""

    async def is_there(self) -> bool:
        return True

    def unread(self) -> int:
        return 0

    def abort(self) -> None:
        """Do nothing: the caller bounds its own calls."""

    def reply(self, exchange: Outgoing, start: bytes, body: Body) -> bool:
        return False

    def respond(self, exchange: Outgoing, response: EncodedResponse) -> None:
        exchange.settle()
        self._put({"type": "http.response.start", "status": response.status, "headers": response.headers})
        self._put({"type": "http.response.body", "body": response.body})
        self.close()

    def begin(self, exchange: Outgoing, status: int, headers: Headers) -> None:
        self._put({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, exchange: Outgoing, chunk: Body) -> None:
        self._put({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._is_empty.wait()

    def end(self, exchange: Outgoing, seconds: float) -> None:
        exchange.settle()
        self._put({"type": "http.response.body", "body": b""})
        self.close()

    def cut(self, exchange: Outgoing, record: bytes, code: str) -> None:
        exchange.settle()
        if record:
            self._put({"type": "http.response.body", "body": record, "more_body": True})
        self._put({"type": CUT, "code": code})
        self.close()


class AsgiInvocations:
    """Takes ``POST /invocations``. A stream that fails ends with a call of the extension ``CUT``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        head = self._endpoint.heads.read(scope["raw_path"], headers)
        assert head is not None, "this is no invocation"
        border = AsgiBorder(scope, send)
        length = next((int(value) for name, value in headers if name == b"content-length"), 0)
        exchange = open_exchange(self._endpoint, border, head, length)
        listening = asyncio.get_running_loop().create_task(listen(exchange, border, receive))
        try:
            await border.pump()
        except asyncio.CancelledError:  # the server's time for draining is over
            exchange.give_up()
            await border.pump()
        finally:
            listening.cancel()
            exchange.disconnect()


async def listen(exchange: Exchange, border: AsgiBorder, receive: Receive) -> None:
    """Pass the request's body to the exchange, and the end of its client."""
    try:
        while (message := await receive())["type"] != "http.disconnect":
            if not exchange.is_whole:
                exchange.on_body(message.get("body", b""))
                if not message.get("more_body", False):
                    exchange.on_body_end()
    except Exception as exc:
        exchange.fail(exc)
    else:
        exchange.disconnect()
        border.close()
