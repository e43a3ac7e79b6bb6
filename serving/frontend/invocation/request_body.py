"""RequestBody: the body of an invocation as it arrives, and the memory that it and the response take."""

from __future__ import annotations

from abc import abstractmethod

import msgspec

from serving.errors import BodiesFull, ServingError
from serving.frontend.bodies import COUNTED, BodyReservation
from serving.frontend.invocation.border import Border, Reader
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.state import State
from serving.request import Body

READING, STREAMING = State.READING, State.STREAMING
STILL_BODY = "nothing came of the body while others needed its room"


class RequestBody(msgspec.Struct, eq=False, kw_only=True):
    """The receiving half of an exchange. It is a base, not a part: a part would be one more object for each request.

    ``length`` is the Content-Length in bytes, 0 where there is none, and ``size`` what has arrived. ``is_whole``: all
    of it has. ``reader`` reads the rest of a large body.
    """

    endpoint: Endpoint
    border: Border
    state: State = State.READING
    length: int = 0
    size: int = 0
    is_whole: bool = False
    reader: Reader | None = None
    _held: BodyReservation | None = None
    _buffers: list[Body] = []

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Answer with ``error``. Does nothing once there is a response."""

    @abstractmethod
    def _ask(self) -> None:
        """Send the request, whose body is complete, to a replica."""

    @property
    def body(self) -> Body:
        """The body, as far as it has arrived."""
        if len(self._buffers) != 1:
            self._buffers = [b"".join(self._buffers)]
        return self._buffers[0]

    def on_body(self, part: Body) -> None:
        self._buffers.append(part)
        size = self.size = self.size + len(part)
        if size >= COUNTED or size > self.length:
            self._count_part(size)

    def _count_part(self, size: int) -> None:
        error = self.endpoint.too_large(self.length, self.size)
        if error is not None:
            self.fail(error)
        elif size >= COUNTED:
            self.count(size)

    def count(self, size: int) -> None:
        """Count ``size`` bytes of the body as arrived. The request fails where there is no room for them."""
        try:
            self._holding().grow(size)
        except BodiesFull as error:
            self.fail(error)

    def _holding(self) -> BodyReservation:
        if self._held is None:
            self._held = BodyReservation(self.endpoint.bodies, lambda: self.fail(BodiesFull(STILL_BODY)))
        return self._held

    def replace(self, body: bytearray) -> None:
        """Replace the buffers by ``body``, which has the final size and begins with what has arrived."""
        self._buffers = [body]
        self.size = len(body)

    def on_body_end(self) -> None:
        self.is_whole = True
        if self._held is not None:
            self._held.keep()
        if self.state is READING:
            self._ask()

    @property
    def has_begun(self) -> bool:
        return self.state >= STREAMING

    @property
    def streams(self) -> bool:
        return self.state is STREAMING

    @property
    def is_ready(self) -> bool:
        """Whether a client that asks before it sends the body may send it."""
        return self.state is READING

    @property
    def is_receiving(self) -> bool:
        return not self.is_whole and self.state <= READING

    def refuse(self, error: ServingError) -> bool:
        is_receiving = self.is_receiving
        if is_receiving:
            self.fail(error)
        return is_receiving

    def holds(self, body: Body) -> bool:
        self._buffers = []
        try:
            self._hold(body)
        except BodiesFull as error:
            self.fail(error)
            return False
        return True

    def _hold(self, body: Body) -> None:
        """Count ``body``, of the response, in place of what was held, until the client has read it. Raises
        BodiesFull.
        """
        unread = self.border.unread
        self._holding().count_response(len(body) + unread(), unread, self.border.abort)

    def _drop_body(self) -> None:
        """Release the body; what it took stays counted until the client has read the response."""
        self._buffers = []
        if self.reader is not None:
            self.reader.drop()
            self.reader = None

    def _release(self) -> None:
        """Give back the memory of the body, or of the response that took its place."""
        if self._held is not None:
            self._held.release()
