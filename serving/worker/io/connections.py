"""Connections: a worker's connections to the HTTP workers, and the wait until all that was sent has left."""

from __future__ import annotations

import threading

from serving.ipc.channel import Channel


class Connections:
    """The open connections, changed on the loop's thread. ``flushed`` is set once those that were closed have ended."""

    def __init__(self) -> None:
        self.open: set[Channel] = set()
        self.flushed = threading.Event()
        self._closing: set[Channel] = set()

    def close(self, *others: Channel) -> None:
        """Close all connections, and ``others``, after their pending writes."""
        self.flushed.clear()
        self._closing = {*others, *self.open}
        for channel in list(self._closing):
            channel.close()
        self._note()

    def remove(self, channel: Channel) -> None:
        """Forget a connection that has ended."""
        self.open.discard(channel)
        if channel in self._closing:
            self._closing.discard(channel)
            self._note()

    def _note(self) -> None:
        if not self._closing:
            self.flushed.set()
