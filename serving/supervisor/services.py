"""Services: the two processes that must always run, and the listening socket that outlives them."""

from __future__ import annotations

import socket

from serving.ipc.runtime import BACKLOG

RESTARTS = 5  # restarts in a row of the HTTP master or the fork server, before the container gives up
CALM = 5.0  # seconds of service after which the count of failures begins again


class Service:
    """The HTTP master or the fork server: its process, and its number of failures in a row. A while of service resets
    that number.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid: int | None = None
        self.failures = 0
        self._serves_since: float | None = None

    def began(self, pid: int) -> None:
        self.pid, self._serves_since = pid, None

    def serves(self, now: float) -> None:
        """Record that it does its work."""
        if self._serves_since is None:
            self._serves_since = now

    def ended(self, now: float) -> bool:
        """Record the end of its process; returns whether to start it again."""
        self.pid = None
        calm = self._serves_since is not None and now - self._serves_since >= CALM
        self.failures = 1 if calm else self.failures + 1
        return self.failures <= RESTARTS


def bind(host: str, port: int) -> socket.socket:
    """Return the listening socket. It is made before anything else, so that a taken port ends the start at once. Raises
    OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
