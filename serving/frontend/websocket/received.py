"""Received: what a WebSocket's client has sent and the app has not taken. All of it counts as memory."""

from __future__ import annotations

from collections.abc import Callable

from websockets.frames import Frame, Opcode

from serving.frontend.bodies import Bodies, BodyReservation
from serving.frontend.websocket.framing import Framing, Incoming
from serving.frontend.websocket.inbox import Inbox

CHUNK = 4096  # bytes parsed at once; even tiny frames take only milliseconds
NOTHING = memoryview(b"")
DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class Received:
    """Bytes that are not parsed yet, then an incomplete frame in ``framing``, then messages in ``inbox``.

    Bytes wait while the inbox is full, or while it is the turn of others.
    """

    def __init__(self, framing: Framing, max_message: int, bodies: Bodies) -> None:
        self._framing = framing
        self._incoming = Incoming(max_message)
        self._held = BodyReservation(bodies)
        self._unread = NOTHING
        self.inbox = Inbox()

    @property
    def can_be_parsed(self) -> bool:
        """Whether there are bytes to parse, and room for their messages."""
        return bool(self._unread) and not self.inbox.is_full

    @property
    def wants_more(self) -> bool:
        """Whether all bytes are parsed, and there is room for messages of more."""
        return not self._unread and not self.inbox.is_full

    def add(self, data: bytes) -> None:
        self._unread = memoryview(bytes(self._unread) + data if self._unread else data)

    def parse(self) -> list[Frame]:
        """Parse the next CHUNK bytes. Returns the frames that are complete with them, control frames included."""
        chunk, self._unread = self._unread[:CHUNK], self._unread[CHUNK:]
        self._framing.receive_data(bytes(chunk))
        return [event for event in self._framing.events_received() if isinstance(event, Frame)]

    def take(self, frame: Frame) -> None:
        """Put a data frame into the inbox as a message. Raises Unacceptable."""
        self.inbox.put(self._incoming.message(frame), len(frame.data))

    def count(self, leave: Callable[[], None]) -> None:
        """Count the bytes held now; ``leave`` ends the connection for lack of room. Raises BodiesFull."""
        self._held.hold(self._framing.unfinished + len(self._unread) + self.inbox.size, leave)

    def drop_unread(self) -> None:
        self._unread = NOTHING

    def give_back(self) -> None:
        """Stop counting the bytes held, which nobody waits for any more."""
        self._held.release()

    def drop(self) -> None:
        """Drop what is not a message yet, and stop counting: the connection is lost."""
        self.drop_unread()
        self._framing.forget()
        self.give_back()
