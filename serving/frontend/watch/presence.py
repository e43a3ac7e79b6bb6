"""Presence: whether the client of one connection is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving.frontend.http.sending import Sending
from serving.frontend.http.turn import Turn
from serving.frontend.watch.absence import CLOSED, Absence, Lookout, Silence, has_disconnected, see


class Presence:
    """Watches the client of one connection.

    ``is_blind`` returns whether nothing is read, so that the client's end goes unnoticed; ``on_doubt`` is called
    meanwhile when the client may have left, with whether it sends no more.
    """

    __slots__ = ("_lookout", "_loop", "_sending", "_transport", "_watch", "has_eof")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        sending: Sending,
        is_blind: Callable[[], bool],
        on_doubt: Callable[[bool], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._sending = sending
        self._lookout = Lookout(transport, loop, is_blind, on_doubt)
        self._watch: Absence | Silence | None = None
        self.has_eof = False

    def on_blind(self) -> None:
        """Begin to look out: nothing is read any more."""
        self._lookout.start()

    def suspect(self, turn: Turn, sends_no_more: bool = True) -> None:
        """Watch a client that may have left, or may only wait for the response that is under way."""
        if not turn.has_begun:
            self._begin_answer()
        elif sends_no_more and turn.streams and not isinstance(self._watch, Silence):
            # Any other response is written already, and the time for reading it is bounded elsewhere.
            self.stop_watch()
            self._watch = Silence(self._transport, self._loop, lambda: turn.sent)

    def _begin_answer(self) -> None:
        if self._watch is None:
            self._sending.begin()
            self._watch = Absence(self._transport, self._loop)

    async def is_there(self) -> bool:
        """Return whether the client is still there, as far as can be told; this may send the first bytes of the
        response.
        """
        seen = see(self._transport)
        if seen.state == CLOSED:
            return False  # it has been reset while nothing was read
        if self.has_eof or seen.is_doubtful:
            self._begin_answer()
            return not await has_disconnected(self._transport)
        return True

    def stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def stop(self) -> None:
        self._lookout.stop()
        self.stop_watch()
