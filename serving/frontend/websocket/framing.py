"""Framing: WebSocket frames to ASGI messages and back, one to one. No I/O.

``websocket.receive`` and ``websocket.send`` have one key more than in ASGI, ``fin``: whether the frame ends its
message.
"""

from __future__ import annotations

import codecs
from typing import Literal

from starlette.types import Message
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

Kind = Literal["text", "bytes"]
CONTROL = 125  # bytes of a control frame's payload at most (RFC 6455 §5.5)
REASON = 123  # bytes of these for a close's reason, besides the two of its code


class Unacceptable(Exception):
    """A frame of the client for which the connection is closed, with this code and reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Framing(ServerProtocol):
    """The library's protocol, except for a close between fragments, and for pings while nothing can be written."""

    def __init__(self, max_message: int) -> None:
        # The library counts control frames too: leave room for a ping between the fragments of a large message.
        super().__init__(max_size=max_message + CONTROL)
        self._holds_pongs = False
        self._pong: bytes | None = None

    @property
    def unfinished(self) -> int:
        """The bytes that have arrived of an incomplete frame."""
        return len(self.reader.buffer)

    @property
    def end(self) -> Close | None:
        """How the connection ends: with the close that the client has sent, or the one for a frame that is none."""
        if self.close_rcvd is not None:
            return self.close_rcvd
        return self.close_sent if self.parser_exc is not None else None

    def forget(self) -> None:
        """Drop an incomplete frame, which reference cycles would keep in memory for a while; nothing more is read."""
        self.reader.discard()

    def hold_pongs(self) -> None:
        """Keep only the latest pong until ``release_pong``, as RFC 6455 §5.5.3 allows: a client that never reads could
        otherwise fill the memory with pings.
        """
        self._holds_pongs = True

    def release_pong(self) -> None:
        self._holds_pongs = False
        pong, self._pong = self._pong, None
        if pong is not None and self.state in (State.OPEN, State.CLOSING):
            self.send_pong(pong)

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING and self._holds_pongs:
            self._pong = bytes(frame.data)
            self.events.append(frame)
            return
        if frame.opcode is Opcode.CLOSE and self.state is State.OPEN:
            # Answer it first: the library takes a close between two fragments for an error, though it is allowed
            # there (RFC 6455 §5.4).
            self._reply_to_close(Close.parse(frame.data))
        super().recv_frame(frame)

    def _reply_to_close(self, close: Close) -> None:
        if close.code == CloseCode.NO_STATUS_RCVD:
            self.send_close()
        else:
            self.send_close(close.code, close.reason)


class Incoming:
    """Turns data frames into messages. A character split over two frames arrives with the second."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._size = 0
        self._kind: Kind = "bytes"
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def message(self, frame: Frame) -> Message:
        """Return the message for a data frame. Raises Unacceptable for one that is too large, or no UTF-8 in a text."""
        if frame.opcode is not Opcode.CONT:
            self._kind = "text" if frame.opcode is Opcode.TEXT else "bytes"
        self._size += len(frame.data)
        if self._size > self._max_message:
            raise Unacceptable(CloseCode.MESSAGE_TOO_BIG, f"a message has more than {self._max_message} bytes")
        if frame.fin:
            self._size = 0
        data = bytes(frame.data)
        try:
            value = self._decoder.decode(data, frame.fin) if self._kind == "text" else data
        except UnicodeDecodeError as exc:
            raise Unacceptable(CloseCode.INVALID_DATA, "a text is not UTF-8") from exc
        return {"type": "websocket.receive", self._kind: value, "fin": frame.fin}


class Outgoing:
    """Turns messages into data frames."""

    def __init__(self) -> None:
        self._kind: Kind | None = None

    def send(self, framing: Framing, message: Message) -> None:
        """Send the message as a frame. Raises RuntimeError for a fragment of another kind than the message's
        first one.
        """
        kind, data = payload(message)
        fin = bool(message.get("fin", True))
        if self._kind is None:
            start = framing.send_text if kind == "text" else framing.send_binary
            start(data, fin)
        elif kind == self._kind:
            framing.send_continuation(data, fin)
        else:
            raise RuntimeError(f"a message that began as {self._kind} cannot go on as {kind}")
        self._kind = None if fin else kind


def payload(message: Message) -> tuple[Kind, bytes]:
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        raise RuntimeError("websocket.send has either text or bytes")
    return ("bytes", bytes(data)) if data is not None else ("text", str(text).encode())


def cut(reason: str) -> str:
    """Return the beginning of ``reason`` that fits in a close frame, in whole characters."""
    return reason.encode("utf-8", "replace")[:REASON].decode("utf-8", "ignore")
