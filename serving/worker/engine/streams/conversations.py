"""Conversations: a handler's ``converse`` for one WebSocket, its messages and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import MappingProxyType

import msgspec

from serving.conversation import GOING_AWAY, INTERNAL, POLICY, TRY_LATER, Close, Conversation, Message, shortened
from serving.handler import Handler
from serving.ipc.channel import Channel
from serving.ipc.wire import CREDIT, CloseHead, Frame, FrameKind, OpenHead
from serving.request import Request
from serving.system import log
from serving.worker.batching.batcher import Item, Live
from serving.worker.engine.failures import predict_error
from serving.worker.engine.streams.parts import Part, Used

_close_head = msgspec.msgpack.Decoder(CloseHead)

GRACE = 5.0  # seconds that ``converse`` may go on once the connection is closed


class WebSocketRunner:
    """The worker's end of a conversation, as the I/O thread sees it."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.flow = conversation.flow

    def changed(self) -> None:
        self.conversation.changed()

    async def converse(
        self,
        handler: Handler,
        item: Item,
        emit: Callable[[Item, Part], None],
        check: Callable[[BaseException], object],
    ) -> None:
        """Run ``converse`` to its end, and at most ``GRACE`` seconds longer once either side has closed.

        ``check`` is called with the exception that it raises, as for Streams.
        """
        work = asyncio.ensure_future(self._run(handler, item, check))
        closed = asyncio.ensure_future(self.conversation.wait_closed())
        try:
            await asyncio.wait({work, closed}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({work}, timeout=GRACE)
            if not work.done():
                log.warning("a conversation goes on though it is closed; it is cancelled")
        finally:
            work.cancel()
            closed.cancel()
            await asyncio.wait({work}, timeout=GRACE)
            emit(item, work.result() if work.done() and not work.cancelled() else Close(GOING_AWAY))

    async def _run(self, handler: Handler, item: Item, check: Callable[[BaseException], object]) -> Close:
        try:
            await handler.converse(self.conversation)
        except asyncio.CancelledError:
            return Close(GOING_AWAY)
        except BaseException as exc:
            if self.conversation.is_closed and isinstance(exc, ConnectionError):
                return Close(GOING_AWAY)
            check(exc)
            return close_of(item, exc)
        if self.conversation.close_code is None:
            return Close()
        return Close(GOING_AWAY, self.conversation.close_reason)


def close_of(item: Item, exc: BaseException) -> Close:
    """Return the close code and reason for an exception of ``converse``."""
    error = predict_error(item, exc)
    code = POLICY if error.status < 500 else TRY_LATER if error.status == 503 else INTERNAL
    return Close(code, shortened(f"{error.code}: {error.message}"))


# On the I/O thread.


def open_item(
    head: OpenHead,
    id: int,
    channel: Channel,
    emit: Callable[[Item, Part], None],
    wake: Callable[[Callable[[], object]], None],
) -> Item:
    """Return the item of a WebSocket that opens. ``emit`` and ``wake`` may be called on any thread."""
    item = Item(id, Request(request_id=head.request_id, model=head.model, path=head.path), channel)
    conversation = Conversation(
        lambda part: emit(item, part),
        lambda count: emit(item, Used(count)),
        wake,
        head.path,
        head.query,
        MappingProxyType(head.headers),
        head.request_id,
        head.model,
    )
    item.live = WebSocketRunner(conversation)
    return item


def on_stream_frame(live: Live, frame: Frame) -> None:
    """Handle CHUNK, CREDIT or END from the HTTP worker, for a stream or a conversation."""
    if frame.kind == FrameKind.CREDIT:
        live.flow.used += CREDIT.unpack(frame.head)[0]
        live.changed()
    elif isinstance(live, WebSocketRunner) and frame.kind == FrameKind.CHUNK:
        live.conversation.feed(Message.read(frame))
    elif isinstance(live, WebSocketRunner):
        close = _close_head.decode(frame.head)
        live.conversation.end(close.code, close.reason)
