"""The two processes that must always be there, and the listening socket that outlives them."""

from __future__ import annotations

import socket

from serving.ipc.runtime import BACKLOG

RESTARTS = 5  # of the HTTP master or the fork server in a row, before the container gives up
CALM = 5.0  # seconds of service after which a death counts as the first one again


class Service:
    """The HTTP master or the fork server: its process, and how often it has failed in a row, which is without having
    served for a while in between."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid: int | None = None
        self.failures = 0
        self._serves_since: float | None = None

    def began(self, pid: int) -> None:
        self.pid, self._serves_since = pid, None

    def serves(self, now: float) -> None:
        """It does what it is for."""
        if self._serves_since is None:
            self._serves_since = now

    def ended(self, now: float) -> bool:
        """Whether to start it again."""
        self.pid = None
        calm = self._serves_since is not None and now - self._serves_since >= CALM
        self.failures = 1 if calm else self.failures + 1
        return self.failures <= RESTARTS


def bind(host: str, port: int) -> socket.socket:
    """The listening socket, made before anything else so that a taken port ends the start at once. Raises OSError."""
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
