"""Engine side: frames that the engine's thread takes by itself, and the outcomes that it sends.

It saves waking the loop's thread for a plain request and its answer, which takes longer than to read and send them.
"""

from __future__ import annotations

import math
import time

from serving.errors import ServingError
from serving.ipc.channel import Channel
from serving.ipc.scoreboard import Row
from serving.ipc.wire import Frame, FrameKind
from serving.request import Body, Response
from serving.worker.batching.items import Item
from serving.worker.engine.streams.parts import Reply
from serving.worker.io import replies
from serving.worker.io.arrivals import item_of
from serving.worker.io.connections import Connections
from serving.worker.io.gate import Gate
from serving.worker.io.iothread import IoThread
from serving.worker.io.loopside import LoopSide
from serving.worker.io.sessioncalls import SessionCalls

UNSENT = 64 << 20  # bytes of unsent answers from which on the engine waits
SETTLE = 1.0  # seconds for answers to leave before a request runs that may end the process

REQUEST, CANCEL = int(FrameKind.REQUEST), int(FrameKind.CANCEL)  # an enum's members are slow to compare


class EngineSide:
    """The requests of one worker as the engine's thread sees them; call all of it there.

    ``items`` are the requests under way, by id; no two HTTP workers use the same one.
    """

    def __init__(
        self,
        row: Row,
        gate: Gate,
        items: dict[int, Item],
        sessions: SessionCalls,
        loop_side: LoopSide,
        connections: Connections,
        io: IoThread,
    ) -> None:
        self._row = row
        self._gate = gate
        self._items = items
        self._sessions = sessions
        self._loop_side = loop_side
        self._connections = connections
        self._io = io
        self._behind: set[Channel] = set()  # with unsent answers

    def take(self, channel: Channel, frame: Frame) -> bool:
        """Take a plain request, or the cancelling of one. Returns False for frames for the loop's side."""
        if frame.kind == REQUEST:
            return self._gate.takes and self._accept(channel, frame)
        if frame.kind != CANCEL:
            return False
        item = self._items.get(frame.id)
        if item is None and (frame.head or self._sessions.opened_by(frame.id)):
            return False
        if item is None or item.live is None:
            self._items.pop(frame.id, None)
            if item is not None:
                self._loop_side.cancel(item)
            return True
        return False

    def _accept(self, channel: Channel, frame: Frame) -> bool:
        item, accepted = item_of(frame, channel)
        if self._sessions.concern(item.request):
            return False
        self._items[item.id] = item  # before the loop's thread may cancel it
        if not self._gate.batcher.add(item, accepted) and self._items.pop(item.id, None) is not None:
            channel.send_now(replies.frame_of(item, self._gate.refusal))
        return True

    def took(self) -> None:
        """Show the supervisor how many requests wait, after some were taken."""
        self._row.queued = self._gate.batcher.size

    def deliver(self, ready: list[Reply]) -> None:
        """Send whole answers; the loop's thread sends all others."""
        frames: dict[Channel, list[Body]] = {}
        others: list[Reply] = []
        for item, outcome in ready:
            if item.session is not None or item.live is not None or not isinstance(outcome, (Response, ServingError)):
                others.append((item, outcome))
            elif self._items.pop(item.id, None) is not None:
                buffers = frames.get(item.reply_to)
                if buffers is None:
                    buffers = frames[item.reply_to] = []
                buffers += replies.frame_of(item, outcome)
        for channel, buffers in frames.items():
            if not channel.send_now(buffers):
                self._behind.add(channel)
        if others:
            self._behind.update(item.reply_to for item, _ in others if item.reply_to is not None)
            self._io.loop.call_soon_threadsafe(self._loop_side.reply, others)
        else:
            self._row.queued = self._gate.batcher.size

    def settle(self) -> None:
        """Wait until delivered answers have left the process, or nobody reads them."""
        until = time.monotonic() + SETTLE
        while self._is_sending() and time.monotonic() < until:
            time.sleep(SETTLE / 1000)

    def _is_sending(self) -> bool:
        waiting: list[Channel] = []
        self._io.call(lambda: waiting.extend(one for one in self._connections.open if one.is_sending))
        return bool(waiting)

    def make_room(self) -> None:
        """Wait while too many delivered bytes are unsent, as long as some of them leave."""
        if not self._behind:
            return
        least, until = math.inf, 0.0
        while (unsent := sum(one.unsent for one in self._behind)) > UNSENT:
            now = time.monotonic()
            if unsent < least:
                least, until = unsent, now + SETTLE
            elif now > until:
                return
            time.sleep(SETTLE / 1000)
        if not unsent:
            self._behind.clear()
