"""Border: where the response of an exchange goes."""

from __future__ import annotations

from typing import Protocol

from serving.frontend.http.headers import Headers
from serving.frontend.responses import EncodedResponse
from serving.request import Body


class Reader(Protocol):
    """Reads a large body directly into its buffer."""

    def drop(self) -> None:
        """Release the buffer, and drop what still arrives."""
        ...


class Outgoing(Protocol):
    """An exchange as its border sees it. ``sent`` is the number of chunks sent, ``is_old`` whether the client speaks
    HTTP/1.0.
    """

    request_id: str
    keep_alive: bool
    is_old: bool
    sent: int

    def holds(self, body: Body) -> bool:
        """Return whether there is room for a large response until its client has read it; the request fails where
        not.
        """
        ...

    def leave(self) -> None:
        """Note that the response is written; ``settle`` follows once the client has read most of it."""
        ...

    def end_within(self, seconds: float) -> None:
        """Cut the connection if the client does not read the rest of the response within ``seconds``."""
        ...

    def settle(self) -> None:
        """Complete the exchange: the response has left. Does nothing a second time."""
        ...


class Border(Protocol):
    """The way of responses to a client: the writer of a connection, or the caller of the ASGI application.

    It calls ``settle`` of the exchange once the response has left, or enough of it.
    """

    def go_ahead(self) -> None:
        """Tell a client that waits for it to send the body."""
        ...

    async def is_there(self) -> bool:
        """Return whether the client is still there, as far as can be told."""
        ...

    def unread(self) -> int:
        """Return the number of bytes that wait for the client."""
        ...

    def abort(self) -> None: ...

    def reply(self, exchange: Outgoing, start: bytes, body: Body) -> bool:
        """Send a common response: ``start`` is its first lines, up to the value of Content-Length. Returns False where
        this border takes responses by ``respond`` only.
        """
        ...

    def respond(self, exchange: Outgoing, response: EncodedResponse) -> None:
        """Send a whole response."""
        ...

    def begin(self, exchange: Outgoing, status: int, headers: Headers) -> None:
        """Send the head of a streamed response."""
        ...

    async def write(self, exchange: Outgoing, chunk: Body) -> None:
        """Send one chunk; waits while the client reads slowly. The caller bounds the wait."""
        ...

    def end(self, exchange: Outgoing, seconds: float) -> None:
        """End a streamed response, which the client has ``seconds`` to read."""
        ...

    def cut(self, exchange: Outgoing, record: bytes, code: str) -> None:
        """Send ``record``, the last one, and end a streamed response so that nobody takes it for a whole one."""
        ...
