"""Loop side: frames that the loop's thread takes from HTTP workers, and the outcomes that it sends.

These are all that belong to sessions, streams or conversations, and those that come while the engine is away.
"""

from __future__ import annotations

import time

from serving.config.config import Config
from serving.conversation import Close, Message
from serving.errors import ServingError
from serving.ipc.channel import Channel
from serving.ipc.scoreboard import Row
from serving.ipc.wire import Frame, FrameKind
from serving.worker.batching.items import Item
from serving.worker.engine.streams.conversations import WebSocketRunner, on_stream_frame
from serving.worker.engine.streams.parts import Begin, More, Part, Reply, Used
from serving.worker.io import replies
from serving.worker.io.arrivals import item_of
from serving.worker.io.gate import Gate
from serving.worker.io.iothread import IoThread
from serving.worker.io.sessioncalls import SessionCalls
from serving.worker.io.websockets import WebSockets

LOST = 10.0  # seconds beyond its time-out after which a stream is given up here
PARTS = (Begin, More, Message, Used)


class LoopSide:
    """The requests of one worker as the loop's thread sees them; call all but ``reply_soon`` there.

    ``items`` are the requests under way, by id. A stream may take ``timeout`` seconds.
    """

    def __init__(
        self,
        config: Config,
        timeout: float,
        row: Row,
        gate: Gate,
        items: dict[int, Item],
        sessions: SessionCalls,
        io: IoThread,
    ) -> None:
        self._overdue = max(0.0, config.stream_timeout - timeout) + LOST
        self._row = row
        self._gate = gate
        self._items = items
        self._sessions = sessions
        self._io = io
        self.websockets = WebSockets(config.conversation_limit, self._put, self._reply_soon)

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        """Take a frame of an HTTP worker."""
        if frame.kind in (FrameKind.REQUEST, FrameKind.OPEN) and not self._gate.takes:
            channel.send(FrameKind.RETURN, frame.id)
        elif frame.kind == FrameKind.REQUEST:
            self._accept(channel, frame)
        elif frame.kind == FrameKind.OPEN:
            self.websockets.open(channel, frame)
        elif frame.kind == FrameKind.CANCEL:
            self._call_off(frame)
        elif frame.kind in (FrameKind.CHUNK, FrameKind.CREDIT, FrameKind.END):
            item = self._items.get(frame.id)
            if item is not None and item.live is not None:
                on_stream_frame(item.live, frame)

    def _accept(self, channel: Channel, frame: Frame) -> None:
        item, accepted = item_of(frame, channel)
        try:
            self._sessions.enter(item)
            self._put(item, accepted)
        except ServingError as error:
            replies.send(item, error)

    def _put(self, item: Item, accepted: bool = False) -> None:
        """Queue a request, behind earlier calls of its session. Raises QueueFull."""
        is_first = self._sessions.is_first(item)
        self._items[item.id] = item  # before the engine can take it
        if is_first and not self._gate.batcher.add(item, accepted):
            del self._items[item.id]
            self._leave_session(item, failed=True)
            raise self._gate.refusal
        self.count()
        self._gate.waking.ask()

    def count(self) -> None:
        """Show the supervisor how many requests wait."""
        self._row.queued = self._gate.batcher.size

    # What nobody waits for any more.

    def _call_off(self, frame: Frame) -> None:
        item = self._items.pop(frame.id, None)
        if item is not None:
            self.cancel(item)
        else:
            self._sessions.disown(frame.id, bytes(frame.head).decode("ascii", "replace"))
            self._end_sessions()

    def cancel(self, item: Item) -> None:
        """Let a request end that is no longer among the ``items``. One without a stream: from any thread."""
        item.cancelled = item.request.client.gone = True
        if isinstance(item.live, WebSocketRunner):
            self.websockets.cut(item.live)
        elif item.live is not None:
            item.live.changed()

    def cancel_all(self, channel: Channel) -> None:
        """Cancel what an HTTP worker has asked that has left."""
        for item in [item for item in list(self._items.values()) if item.reply_to is channel]:
            if self._items.pop(item.id, None) is not None:
                self.cancel(item)

    def sweep(self) -> None:
        """End what is over time: sessions, and streams whose end was lost on the way to the client."""
        self._end_sessions()
        now = time.monotonic()
        for key, item in list(self._items.items()):
            if item.live is not None and now > item.request.deadline.at + self._overdue:
                self.cancel(self._items.pop(key))

    def _end_sessions(self) -> None:
        for command in self._sessions.expire():
            self._gate.batcher.put(command, accepted=True)

    def go_away(self) -> None:
        """End all conversations: the worker retires."""
        self.websockets.go_away(list(self._items.values()))

    # Answers.

    def reply(self, ready: list[Reply]) -> None:
        for item, outcome in ready:
            if isinstance(outcome, PARTS):
                if item.id in self._items:
                    replies.send_part(item, outcome)
                continue
            is_awaited = self._items.pop(item.id, None) is not None
            if is_awaited:
                if isinstance(outcome, Close):
                    self.websockets.closed()
                replies.send_last(item, outcome)
            taken = is_awaited and item.reply_to.is_open
            self._leave_session(item, failed=isinstance(outcome, ServingError) or not taken)
        self.count()

    def _reply_soon(self, item: Item, part: Part) -> None:
        """Reply on the loop's thread. From any thread."""
        ready: list[Reply] = [(item, part)]
        self._io.loop.call_soon_threadsafe(self.reply, ready)

    def _leave_session(self, item: Item, failed: bool) -> None:
        """End a call of a session, so that the next one can run."""
        if item.session is None:
            return
        following = self._sessions.leave(item, failed)
        if following is not None:
            self._gate.batcher.put(following, accepted=True)
        elif item.opens and failed:
            self._end_sessions()
        if not self._gate.takes:
            self._gate.batcher.wake()  # this may have been the last
