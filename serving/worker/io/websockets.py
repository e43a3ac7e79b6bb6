"""WebSockets: how a worker's conversations open and end, on the loop's thread."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from serving.conversation import ABNORMAL, GOING_AWAY
from serving.errors import ConversationLimit, ServingError
from serving.ipc.channel import Channel
from serving.ipc.wire import Frame, FrameKind, OpenHead
from serving.worker.batching.items import Item
from serving.worker.engine.streams.conversations import WebSocketRunner, open_item
from serving.worker.engine.streams.parts import Part
from serving.worker.engine.streams.streams import Streams
from serving.worker.io import replies

_open_head = msgspec.msgpack.Decoder(OpenHead)


class WebSockets:
    """The conversations of one worker, at most ``limit`` at a time.

    ``put`` queues one or raises a ServingError. ``emit`` sends a part, from any thread.
    """

    def __init__(self, limit: int, put: Callable[[Item], None], emit: Callable[[Item, Part], None]) -> None:
        self._limit = limit
        self._put = put
        self._emit = emit
        self._count = 0
        self.streams: Streams
        """The streams of the engine that runs them."""

    def open(self, channel: Channel, frame: Frame) -> None:
        """Begin the conversation of an OPEN frame, or send its error."""
        head = _open_head.decode(frame.head)
        item = open_item(head, frame.id, channel, self._emit, self.streams.call)
        try:
            if self._count >= self._limit:
                raise ConversationLimit(f"{self._count} conversations are open here, which is the limit")
            self._put(item)
        except ServingError as error:
            replies.send(item, error)
            return
        self._count += 1
        channel.send(FrameKind.BEGIN, item.id)

    def cut(self, runner: WebSocketRunner) -> None:
        """End a conversation whose client has left."""
        self._count -= 1
        runner.conversation.end(ABNORMAL, "")

    def closed(self) -> None:
        """Count a conversation less, which the handler has ended."""
        self._count -= 1

    @staticmethod
    def go_away(items: list[Item]) -> None:
        """End all conversations among ``items``, since the worker retires."""
        for item in items:
            if isinstance(item.live, WebSocketRunner):
                item.live.conversation.end(GOING_AWAY, "the model is leaving")
