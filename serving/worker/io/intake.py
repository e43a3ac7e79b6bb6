"""Intake: a worker's connections, on the loop's thread: frames in, frames out. It never touches user code.

Requests go into the batcher, by the rules of sessions and conversations; the engine's outcomes go back."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import threading
import time
from collections.abc import Callable

import msgspec

from serving.config.config import Config
from serving.conversation import ABNORMAL, GOING_AWAY, Close, Message
from serving.errors import ConversationLimit, QueueFull, ServingError
from serving.ipc.channel import Channel
from serving.ipc.messages import Assign, Park, Retire, WorkerHello, WorkerPhase, pack, unpack
from serving.ipc.messages import Message as ControlMessage
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Phase, Row
from serving.ipc.wire import Frame, Kind, OpenHead
from serving.model.model import Model
from serving.request import Body, Response
from serving.session import SessionAddress
from serving.system import log
from serving.usercode import surroundings
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.streams.conversations import Partner, on_stream_frame, open_item
from serving.worker.engine.streams.parts import Begin, More, Outcome, Part, Used
from serving.worker.engine.streams.streams import Streams
from serving.worker.io import replies
from serving.worker.io.arrivals import item_of
from serving.worker.io.iothread import IoThread
from serving.worker.io.measures import Measures
from serving.worker.io.reading import Reading
from serving.worker.io.sessioncalls import SessionCalls
from serving.worker.io.soon import Soon
from serving.worker.parking import Parking

LOST = 10.0  # seconds beyond its time-out after which a stream is given up here
UNSENT = 64 << 20  # bytes of unsent answers from which on the engine waits
SETTLE = 1.0  # seconds for answers to leave before a request runs that may end the process
BEAT = 0.25  # seconds between stamps of the I/O thread

REQUEST, CANCEL = int(Kind.REQUEST), int(Kind.CANCEL)  # an enum's members are slow to compare
PARTS = (Begin, More, Message, Used)

_open_head = msgspec.msgpack.Decoder(OpenHead)


class Intake:
    """The connections of one worker; ``control`` is the socket to the supervisor.

    ``measure`` reads the memory of the process, on any thread; ``measure_idle`` does so once it has been idle for a
    while."""

    def __init__(
        self,
        model: Model,
        config: Config,
        runtime: Runtime,
        row: Row,
        epoch: int,
        control: socket.socket,
        measure: Callable[[], None],
        measure_idle: Callable[[], None],
    ) -> None:
        self.io = IoThread()
        self.reading = Reading(self)
        self.parking = Parking()
        self.flushed = threading.Event()
        self._model = model
        self._config = config
        self._runtime = runtime
        self._row = row
        self._epoch = epoch
        self._socket = control
        self._measures = Measures(row, measure, measure_idle)
        self._control: Channel
        self._server: asyncio.Server | None = None
        self._listening: asyncio.Task[None] | None = None
        self._batcher: Batcher | None = None
        self._takes = False
        self._streams: Streams
        self._waking: Soon
        self._items: dict[int, Item] = {}  # by id; no two HTTP workers use the same one
        self._channels: set[Channel] = set()
        self._behind: set[Channel] = set()  # with unsent answers; for the engine's thread only
        self._conversations = 0
        self._ending = False
        self._closing: set[Channel] = set()
        self.sessions = SessionCalls(config, row, SessionAddress(runtime.instance, row.index, epoch), self._items)

    async def connect(self) -> None:
        self.reading.start(self.io.loop)
        _, self._control = await self.io.loop.create_unix_connection(lambda: Channel(self), sock=self._socket)
        self.tell(WorkerHello(self._row.index, self._epoch))
        self._beat()

    def open(self, batcher: Batcher, streams: Streams, ready: WorkerPhase) -> None:
        """Take requests from now on; ``ready`` tells the supervisor."""
        self._batcher, self._streams, self._waking = batcher, streams, Soon(batcher.wake)
        self.reading.watch(False)
        self._listening = self.io.loop.create_task(self._begin(ready))

    async def _begin(self, ready: WorkerPhase) -> None:
        try:
            await self._listen(ready)
        except Exception as exc:
            # Nobody could reach this replica, and the supervisor would wait for it in vain.
            log.error("the worker cannot listen", exc=exc)
            os._exit(70)

    async def _listen(self, ready: WorkerPhase) -> None:
        path = str(self._runtime.worker_path(self._row.index, self._epoch))
        if self._server is None:
            self._server = await self.io.loop.create_unix_server(lambda: Channel(self, self._meet), path, backlog=256)
        self._row.phase = Phase.READY
        self._takes = True
        self.tell(ready)

    def _meet(self, channel: Channel) -> None:
        self._channels.add(channel)
        channel.let_others_send()
        self.io.loop.call_soon(self.reading.add, channel)  # its transport begins to read after this

    def tell(self, message: WorkerHello | WorkerPhase) -> None:
        self._control.send_raw([pack(message)])

    def flush(self) -> None:
        """Close all connections after their pending writes; ``flushed`` is set at the end."""
        self.flushed.clear()
        self._ending, self._takes = True, False
        self._closing = {self._control, *self._channels}
        for channel in list(self._closing):
            channel.close()

    def settle(self) -> None:
        """Wait, on the engine's thread, until delivered answers have left the process, or nobody reads them."""
        until = time.monotonic() + SETTLE
        while self._is_sending() and time.monotonic() < until:
            time.sleep(SETTLE / 1000)

    def make_room(self) -> None:
        """Wait, on the engine's thread, while too many delivered bytes are unsent, as long as some of them leave."""
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

    def _is_sending(self) -> bool:
        waiting: list[Channel] = []
        self.io.call(lambda: waiting.extend(one for one in self._channels if one.is_sending))
        return bool(waiting)

    def part(self) -> None:
        """Close the connections of HTTP workers, end all sessions and take nothing until ``open``."""
        self.flushed.clear()
        self.sessions.forget()
        self._batcher, self._takes = None, False
        self._closing = set(self._channels)
        for channel in list(self._closing):
            channel.close()
        if not self._closing:
            self.flushed.set()

    def _beat(self) -> None:
        self._row.stamp_beat()
        self.io.loop.call_later(BEAT, self._beat)
        self._sweep()
        self._sweep_streams()
        surroundings.tell_old()
        if self._batcher is not None:
            self._row.queued = self._batcher.size
        if (measure := self._measures.due(time.monotonic())) is not None:
            self.io.loop.run_in_executor(None, measure)

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        if frame.kind == Kind.REQUEST:
            self._accept(channel, frame)
        elif frame.kind == Kind.CANCEL:
            item = self._items.pop(frame.id, None)
            if item is not None:
                self._cancel(item)
            else:
                self.sessions.disown(frame.id, bytes(frame.head).decode("ascii", "replace"))
                self._sweep()
        elif frame.kind == Kind.OPEN:
            self._open_conversation(channel, frame)
        elif frame.kind in (Kind.PIECE, Kind.CREDIT, Kind.END):
            item = self._items.get(frame.id)
            if item is not None and item.live is not None:
                on_stream_frame(item.live, frame)
        elif channel is self._control:
            self._on_word(unpack(frame.body))

    def _on_word(self, message: ControlMessage) -> None:
        if isinstance(message, Assign):
            self.parking.take()
        elif isinstance(message, Park):
            self.parking.ask()
            self._retire()
        elif isinstance(message, Retire) and not (self.parking.dismiss() and self._batcher is None):
            self._retire()

    def on_lost(self, channel: Channel) -> None:
        self.reading.remove(channel)
        if channel is self._control and not self._ending:
            os._exit(71)  # no supervisor, no worker
        if channel in self._closing:
            self._closing.discard(channel)
            if not self._closing:
                self.flushed.set()
        self._channels.discard(channel)
        for item in [item for item in list(self._items.values()) if item.reply_to is channel]:
            if self._items.pop(item.id, None) is not None:
                self._cancel(item)

    def _cancel(self, item: Item) -> None:
        item.cancelled = item.request.client.gone = True
        if isinstance(item.live, Partner):
            self._conversations -= 1
            item.live.conversation.end(ABNORMAL, "")
        elif item.live is not None:
            item.live.changed()

    def take(self, channel: Channel, frame: Frame) -> bool:
        """Take a plain request, or the cancelling of one, on the engine's thread. Returns False for frames for
        ``on_frame``."""
        if frame.kind == REQUEST:
            return self._takes and self._take(channel, frame)
        if frame.kind != CANCEL:
            return False
        item = self._items.get(frame.id)
        if item is None and (frame.head or self.sessions.opened_by(frame.id)):
            return False
        if item is None or item.live is None:
            self._items.pop(frame.id, None)
            if item is not None:
                self._cancel(item)
            return True
        return False

    def _take(self, channel: Channel, frame: Frame) -> bool:
        item, accepted = item_of(frame, channel)
        if self.sessions.concern(item.request):
            return False
        self._items[item.id] = item  # before the loop's thread may cancel it
        assert self._batcher is not None
        if not self._batcher.add(item, accepted) and self._items.pop(item.id, None) is not None:
            channel.send_now(replies.frame_of(item, self._refusal()))
        return True

    def took(self) -> None:
        if self._batcher is not None:
            self._row.queued = self._batcher.size

    def _refusal(self) -> ServingError:
        return (self._batcher and self._batcher.refusal) or QueueFull("the queue is full")

    def _accept(self, channel: Channel, frame: Frame) -> None:
        item, accepted = item_of(frame, channel)
        if self._batcher is None or not self._takes:
            channel.send(Kind.RETURN, frame.id)
            return
        try:
            self.sessions.enter(item)
            self._put(item, accepted)
        except ServingError as error:
            replies.send(item, error)

    def _put(self, item: Item, accepted: bool = False) -> None:
        """Queue a request, behind earlier calls of its session. Raises QueueFull."""
        assert self._batcher is not None
        is_first = self.sessions.is_first(item)
        self._items[item.id] = item  # before the engine can take it
        if is_first and not self._batcher.add(item, accepted):
            del self._items[item.id]
            self._leave_session(item, failed=True)
            raise self._refusal()
        self._row.queued = self._batcher.size
        self._waking.ask()

    # Conversations, on the loop's thread.

    def _open_conversation(self, channel: Channel, frame: Frame) -> None:
        head = _open_head.decode(frame.head)
        if self._batcher is None or not self._takes:
            channel.send(Kind.RETURN, frame.id)
            return
        item = open_item(head, frame.id, channel, self._reply_soon, self._streams.call)
        try:
            if self._conversations >= self._config.conversation_limit:
                raise ConversationLimit(f"{self._conversations} conversations are open here, which is the limit")
            self._put(item)
        except ServingError as error:
            replies.send(item, error)
            return
        self._conversations += 1
        channel.send(Kind.BEGIN, item.id)

    def _reply_soon(self, item: Item, part: Part) -> None:
        """Reply on the loop's thread. From any thread."""
        outcomes: list[Outcome] = [(item, part)]
        self.io.loop.call_soon_threadsafe(self.reply, outcomes)

    # Sessions, on the loop's thread.

    def _leave_session(self, item: Item, failed: bool) -> None:
        """End a call of a session, so that the next one can run."""
        if item.session is None:
            return
        following = self.sessions.leave(item, failed)
        if self._batcher is None:
            return
        if following is not None:
            self._batcher.put(following, accepted=True)
        elif item.opens and failed:
            self._sweep()
        if not self._takes:
            self._batcher.wake()  # this may have been the last

    def _sweep(self) -> None:
        for chore in self.sessions.expire():
            if self._batcher is not None:
                self._batcher.put(chore, accepted=True)

    def _sweep_streams(self) -> None:
        """Cancel streams that did not end in time: their end was lost on the way to the client."""
        extra = max(0.0, self._config.stream_timeout - self._model.timeout) + LOST
        now = time.monotonic()
        for key, item in list(self._items.items()):
            if item.live is not None and now > item.request.deadline.at + extra:
                self._cancel(self._items.pop(key))

    def deliver(self, outcomes: list[Outcome]) -> None:
        """Send whole answers from the engine's thread, since waking the loop takes longer; the loop
        sends all others."""
        frames: dict[Channel, list[Body]] = {}
        others: list[Outcome] = []
        for item, outcome in outcomes:
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
            self.io.loop.call_soon_threadsafe(self.reply, others)
        elif self._batcher is not None:
            self._row.queued = self._batcher.size

    def reply(self, outcomes: list[Outcome]) -> None:
        for item, outcome in outcomes:
            if isinstance(outcome, PARTS):
                if item.id in self._items:
                    replies.send_part(item, outcome)
                continue
            is_awaited = self._items.pop(item.id, None) is not None
            if is_awaited:
                self._conversations -= isinstance(outcome, Close)
                replies.send_last(item, outcome)
            taken = is_awaited and item.reply_to.is_open
            self._leave_session(item, failed=isinstance(outcome, ServingError) or not taken)
        if self._batcher is not None:
            self._row.queued = self._batcher.size

    def _retire(self) -> None:
        self._row.phase, self._takes = Phase.RETIRING, False
        self.reading.watch(True)
        for item in list(self._items.values()):
            if isinstance(item.live, Partner):
                item.live.conversation.end(GOING_AWAY, "the model is leaving")
        for channel in self._channels:
            channel.send_raw([pack(Retire())])
        if self._batcher is not None:
            self._batcher.close()
        else:
            os._exit(0)
