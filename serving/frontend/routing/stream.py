"""Stream: one streamed response, or one conversation, between this HTTP worker and a replica."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from serving.conversation import Close, Message
from serving.errors import CodedError, ServingError, WorkerDied
from serving.ipc.flow import Credit, Flow, cost
from serving.ipc.wire import CREDIT, CloseHead, Frame, FrameKind, ReplyHead
from serving.request import Body, Response

TAIL = 4  # bytes, a blank line of CR LF

Send = Callable[[FrameKind, bytes, Body], None]

_reply_head = msgspec.msgpack.Decoder(ReplyHead)
_close_head = msgspec.msgpack.Decoder(CloseHead)
_encoder = msgspec.msgpack.Encoder()


class Stream:
    """One stream of frames to and from a replica; it is a conversation if ``converses``.

    ``send`` sends a frame of this stream; ``on_end`` is called once, when it has ended.
    """

    def __init__(self, send: Send, on_end: Callable[[], None], converses: bool = False) -> None:
        self._send = send
        self._converses = converses
        self._on_end = on_end
        self._chunks: deque[Message] = deque()
        self._end: Close | ServingError | None = None
        self._has_ended = False
        self._flow = Flow()
        self._credit = Credit(self._give)
        self._changed = asyncio.Event()

    # From the replica.

    def on_frame(self, frame: Frame) -> None:
        if frame.kind == FrameKind.CHUNK:
            self._chunks.append(Message.read(frame))
        elif frame.kind == FrameKind.CREDIT:
            self._flow.used += CREDIT.unpack(frame.head)[0]
        else:
            self._settle(close_of(frame) if self._converses else end_of(frame))
        self._changed.set()

    def on_lost(self, report: str = "") -> None:
        """Handle the end of the replica; ``report`` is the id of the report of it."""
        self._settle(WorkerDied("the model's process died before it had answered all", report))
        self._changed.set()

    def _settle(self, end: Close | ServingError) -> None:
        if not self._has_ended:
            self._has_ended, self._end = True, end
            self._on_end()

    async def next(self) -> Message | Close:
        """Return the next chunk, or Close at the end. Raises the ServingError that ends the stream. The caller bounds
        the wait.
        """
        while not self._chunks:
            if isinstance(self._end, Close):
                return self._end
            if self._end is not None:
                raise self._end
            self._changed.clear()
            await self._changed.wait()
        return self._chunks.popleft()

    # To the replica.

    def use(self, message: Message) -> None:
        """Give the replica credit for a chunk that was sent on to the client."""
        self._credit.use(cost(message.body))

    def _give(self, count: int) -> None:
        if not self._has_ended:
            self._send(FrameKind.CREDIT, CREDIT.pack(count), b"")

    @property
    def untaken(self) -> int:
        """The bytes sent to the replica that it has not used yet."""
        return 0 if self._has_ended else self._flow.sent - self._flow.used

    async def send_message(self, message: Message) -> None:
        """Send a client's message to the replica; waits for the replica's credit. The caller bounds the wait."""
        while not self._flow.is_open and not self._has_ended:
            self._changed.clear()
            await self._changed.wait()
        if not self._has_ended:
            body = message.body
            self._flow.sent += cost(body)
            self._send(FrameKind.CHUNK, message.head, body)

    def hang_up(self, code: int, reason: str) -> None:
        """Tell the replica that the client has left or should leave; the replica still sends its own END."""
        if not self._has_ended:
            self._send(FrameKind.END, _encoder.encode(CloseHead(code, reason)), b"")

    def cancel(self) -> None:
        """End the stream at once: nobody reads it any more."""
        if not self._has_ended:
            self._send(FrameKind.CANCEL, b"", b"")
            self._settle(Close())


@dataclass(slots=True)
class Streamed:
    """The head of a streamed response with its first chunk, and the stream of the others. ``tail`` holds the last bytes
    sent, from which it is seen whether a line has ended.
    """

    response: Response
    stream: Stream
    tail: bytes = b""

    def passed(self, body: Body) -> None:
        self.tail = (self.tail + bytes(body[-TAIL:]))[-TAIL:]


def close_of(frame: Frame) -> Close:
    """Return the close code and reason in the END frame of a conversation."""
    head = _close_head.decode(frame.head)
    return Close(head.code, head.reason)


def end_of(frame: Frame) -> Close | ServingError:
    """Return the end in the END frame of a streamed response; a frame with a head carries an error."""
    if not frame.head:
        return Close()
    head = _reply_head.decode(frame.head)
    message = bytes(frame.body).decode("utf-8", "replace")
    return CodedError(head.status, head.code or "internal", message, head.retry_after)
