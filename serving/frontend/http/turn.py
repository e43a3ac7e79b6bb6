"""Turn: the request whose response a connection is waiting for. A connection has one at a time."""

from __future__ import annotations

from typing import Protocol

from serving.errors import ServingError
from serving.request import Body


class Turn(Protocol):
    """One request and its response. The connection passes on what arrives, until its writer says that the turn is over.

    ``sent`` is the number of chunks sent so far. ``keep_alive``: the connection outlives this response.
    """

    keep_alive: bool
    sent: int

    @property
    def has_begun(self) -> bool:
        """Whether some of the response has been sent."""
        ...

    @property
    def streams(self) -> bool:
        """Whether the response comes in chunks, each of which shows whether the client is still there."""
        ...

    def on_body(self, part: Body) -> None: ...

    def on_body_end(self) -> None: ...

    def refuse(self, error: ServingError) -> bool:
        """Answer with ``error``, which was found in the request's body. Returns False where this cannot answer."""
        ...

    def give_up(self) -> None:
        """End the request: the server's time for draining is over."""
        ...

    def disconnect(self) -> None:
        """End the request: the client has disconnected."""
        ...
