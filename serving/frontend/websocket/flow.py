"""Flow: flow control of a WebSocket's transport in both directions."""

from __future__ import annotations

import asyncio

from serving.frontend.watch.absence import Lookout
from serving.frontend.watch.reader import ReaderWatch


class Flow:
    """Stops and starts reading, and lets senders wait while the transport's buffer is full. ``lookout`` watches for the
    end of a client that is not read from; ``watch`` bounds the time in which a client reads nothing.
    """

    def __init__(self, transport: asyncio.Transport, watch: ReaderWatch, lookout: Lookout) -> None:
        self._transport = transport
        self._lookout = lookout
        self._watch = watch
        self._writable = asyncio.Event()
        self._writable.set()
        self._has_ended = False
        self.is_reading = True

    @property
    def is_writable(self) -> bool:
        return self._writable.is_set()

    async def drain(self) -> None:
        """Wait until writing is possible. The watch bounds it: it ends the connection, upon which ``stop`` ends the
        wait.
        """
        await self._writable.wait()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._watch.start()

    def resume_writing(self) -> None:
        self._writable.set()
        self._watch.stop()

    def stop(self) -> None:
        """Stop all waits and watches: the connection is lost."""
        self.resume_writing()
        self._lookout.stop()

    def set_reading(self, wanted: bool) -> None:
        if wanted is not self.is_reading and not self._transport.is_closing():
            self.is_reading = wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()
            if not wanted:
                self._lookout.start()

    def write(self, data: bytes) -> None:
        """Write ``data``; it is dropped after the end."""
        if data and not self._has_ended and not self._transport.is_closing():
            self._transport.write(data)

    def end(self) -> None:
        """Shut down the sending side only: closing while the client is sending would reset the connection and lose what
        was sent.
        """
        if self._has_ended or self._transport.is_closing():
            return
        self._has_ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
