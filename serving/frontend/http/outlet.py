"""Outlet: the sending side of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving.frontend.http.flow import Flow
from serving.frontend.http.sending import Sending
from serving.frontend.watch.presence import Presence
from serving.frontend.watch.reader import ReaderWatch

READ_TIME = 60.0  # seconds in which a client that is sent an answer must read some of it


class Outlet:
    """The sending side: what is written, whether the client reads it, and whether it is still there.

    ``close`` ends the connection after what was written. ``is_blind`` returns whether reading is paused. While it
    is, ``on_doubt`` is called when the client may have left; its argument is True if the client sends no more.
    """

    __slots__ = ("_reader", "flow", "presence", "sending", "transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[], None],
        is_blind: Callable[[], bool],
        on_doubt: Callable[[bool], None],
    ) -> None:
        self.transport = transport
        self.sending = Sending(transport, close)
        self.presence = Presence(transport, loop, self.sending, is_blind, on_doubt)
        self.flow = Flow(transport, self.presence.on_blind)
        self._reader = ReaderWatch(transport, loop, READ_TIME)

    def pause(self) -> None:
        """Watch whether the client reads: much of what was written waits for it."""
        self.flow.pause_writing()
        self._reader.start()

    def resume(self) -> None:
        self.flow.resume_writing()
        self._reader.stop()

    def end(self) -> None:
        """Drop what is written from now on."""
        self.sending.end()

    def stop(self) -> None:
        """End the connection's last watch."""
        self._reader.stop()
