"""Running: the app of a WebSocket, and what is logged of how it failed."""

from __future__ import annotations

from typing import Protocol

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.utils import ClientDisconnected

from serving.system import log


class Ends(Protocol):
    """The two ends of a connection for its app: it receives from one and sends to the other."""

    async def receive(self) -> Message: ...

    async def send(self, message: Message) -> None: ...


async def run_app(app: ASGIApp, scope: Scope, ends: Ends) -> bool:
    """Run the app to its end, which it decides. Returns whether it returned by itself; an error is logged."""
    try:
        await app(scope, ends.receive, ends.send)
    except ClientDisconnected:
        log.debug("the client went away", path=scope["path"])
        return False
    except Exception as exc:
        log.error("the app of a WebSocket failed", exc=exc, path=scope["path"])
        return False
    return True
