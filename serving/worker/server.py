"""Model worker: one replica of one model. Frames in, frames out; knows no HTTP.

Two threads. The main one loads the handler and is the engine; user code runs nowhere else. The other one runs the event
loop: it talks to the supervisor and to the HTTP workers, and it never touches user code.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from serving import log
from serving.channel import Channel
from serving.config import Config
from serving.conversation import GOING_AWAY, Close, Message
from serving.deadline import Deadline
from serving.errors import (
    ConversationLimit,
    ModelError,
    QueueFull,
    ServingError,
    SessionClosed,
    SessionExpired,
)
from serving.faults import Fault
from serving.handler import Handler
from serving.headers import NEW_SESSION
from serving.memory import held_by
from serving.messages import Paths, Retire, WorkerHello, WorkerPhase, pack, unpack
from serving.model import Model
from serving.request import Request
from serving.runtime import Runtime
from serving.scoreboard import Phase, Row
from serving.session import SessionAddress, make_id
from serving.wire import Frame, Kind, OpenHead
from serving.worker import replies
from serving.worker.arrivals import item_of
from serving.worker.batcher import Batcher, Item
from serving.worker.conversations import Partner, on_stream_frame, open_item
from serving.worker.device.border import Device
from serving.worker.device.host import Host
from serving.worker.engine import Engine, Outcome, Rules, end_process
from serving.worker.failures import is_out_of_memory
from serving.worker.loader import create_handler, load, open_device, paths_of, warm
from serving.worker.requirements import prepare
from serving.worker.sessions import CLOSE, Sessions, closed, created, request_type
from serving.worker.speed import hasten
from serving.worker.streams import Begin, More, Part, Streams, Used

FLUSH = 4.0  # seconds for the last answers to leave
LOST = 10.0  # seconds beyond its time after which an answer in pieces is given up here
BEAT = 0.25  # seconds between stamps of the I/O thread
MEASURE = 2.0  # seconds at least between looks at the memory of a worker that works

PARTS = (Begin, More, Message, Used)

_open_head = msgspec.msgpack.Decoder(OpenHead)


class Worker:
    """``row`` is this worker's, claimed for ``epoch`` by the supervisor, to which ``control`` is connected."""

    def __init__(
        self, model: Model, config: Config, runtime: Runtime, row: Row, epoch: int, control: socket.socket
    ) -> None:
        self._model = model
        self._socket = control
        self._config = config
        self._runtime = runtime
        self._row = row
        self._epoch = epoch
        self._loop: asyncio.AbstractEventLoop
        self._control: Channel
        self._batcher: Batcher | None = None
        self._streams: Streams
        self._paths = Paths()
        self._conversations = 0
        self._items: dict[tuple[Channel, int], Item] = {}
        self._channels: set[Channel] = set()
        self._ending = False
        self._closing: set[Channel] = set()
        self._flushed = threading.Event()
        address = SessionAddress(runtime.instance, row.index, epoch)
        self._sessions = Sessions(lambda: make_id(address), config.session_ttl, config.session_limit)
        self._answers_sessions = True
        self._one_by_one = True
        self._device: Device = Host()
        self._measured = 0
        self._measure_next = 0.0

    def run(self) -> None:
        """Serve until retired. Returns when the handler is closed; raises nothing."""
        self._start_loop()
        handler = self._load()
        if handler is None:
            return
        batcher = Batcher(handler.policy, self._model.queue_size)
        engine = Engine(
            handler, batcher, self._row, self._deliver, Rules.of(self._config), self._device, self._lose_device
        )
        self._streams = engine.streams
        self._paths = paths_of(handler)
        self._answers_sessions = not handler.session_requests
        self._one_by_one = not handler.concurrent_sessions
        self._measure()
        self._call(self._open, batcher)
        engine.run()
        self._close(handler)

    def _load(self) -> Handler | None:
        try:
            prepare(Path(self._model.path), Path(self._model.code), self._config.install_requirements)
            handler = create_handler(self._model, self._config.compile_cache)
            handler.home = self._runtime.home(self._row.index, self._epoch)
            self._device = open_device(self._model)
            self._report(Phase.LOADING)
            load(handler, self._model, self._device.name)
            hastened = hasten(handler, self._model, self._device, self._row.count_recompilation)
            self._report(Phase.WARMING)
            warm(handler, self._model, hastened)
        except BaseException as exc:
            permanent = isinstance(exc, ModelError)
            if not permanent:
                log.error("the model failed to load", exc=exc, model=self._model.name)
            error = str(exc) if permanent else f"{type(exc).__name__}: {exc}"[:500]
            self._fail(error, permanent, is_out_of_memory(exc))
            return None
        return handler

    def _measure(self) -> None:
        host = held_by("self")
        self._row.stamp_memory(host.private, host.peak, self._device.held())

    def _close(self, handler: Handler) -> None:
        try:
            for session in self._sessions:
                handler.on_session_close(session)
            handler.close()
        except BaseException as exc:
            log.error("the handler failed to close", exc=exc, model=self._model.name)
        self._call(self._flush)
        self._flushed.wait(FLUSH)

    # From the main thread to the loop's thread.

    def _start_loop(self) -> None:
        ready = threading.Event()
        threading.Thread(target=self._run_loop, args=(ready,), name="io", daemon=True).start()
        if not ready.wait(30):
            raise TimeoutError("the worker's event loop did not start")

    def _run_loop(self, ready: threading.Event) -> None:
        import uvloop

        self._loop = uvloop.new_event_loop()
        try:
            self._loop.run_until_complete(self._connect())
            self._beat()
            self._loop.call_soon(ready.set)
            self._loop.run_forever()
        except BaseException as exc:
            # Without this thread the replica is dead but does not know it.
            log.error("the worker's event loop failed", exc=exc)
            os._exit(70)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        """Run on the loop's thread and wait for it."""
        done = threading.Event()

        def step() -> None:
            function(*args)
            done.set()

        self._loop.call_soon_threadsafe(step)
        done.wait(5)

    def _report(self, phase: Phase) -> None:
        self._row.phase = phase
        self._call(self._tell, WorkerPhase(self._row.index, self._epoch, phase.name.lower()))

    def _fail(self, error: str, permanent: bool, out_of_memory: bool) -> None:
        message = WorkerPhase(self._row.index, self._epoch, "failed", error, permanent, out_of_memory)
        self._call(self._tell, message)
        self._call(self._flush)
        self._flushed.wait(FLUSH)

    def _lose_device(self, fault: Fault) -> None:
        """End at once, but for answers on their way out; the scoreboard says which requests were running."""
        self._call(self._flush)
        self._flushed.wait(1.0)
        end_process(fault)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        self._loop.call_soon_threadsafe(self._reply, outcomes)

    # On the loop's thread.

    async def _connect(self) -> None:
        _, self._control = await self._loop.create_unix_connection(lambda: Channel(self), sock=self._socket)
        self._tell(WorkerHello(self._row.index, self._epoch))

    def _open(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._loop.create_task(self._listen(batcher))

    async def _listen(self, batcher: Batcher) -> None:
        path = self._runtime.worker_path(self._row.index, self._epoch)
        await self._loop.create_unix_server(lambda: Channel(self, self._channels.add), str(path), backlog=256)
        self._row.phase = Phase.READY
        ready = WorkerPhase(
            self._row.index,
            self._epoch,
            "ready",
            queue_size=batcher.queue_size,
            batch_size=batcher.policy.max_size,
            device=self._device.name,
            paths=self._paths,
        )
        self._tell(ready)

    def _tell(self, message: WorkerHello | WorkerPhase) -> None:
        self._control.send_raw([pack(message)])

    def _flush(self) -> None:
        self._ending = True
        self._closing = {self._control, *self._channels}
        for channel in list(self._closing):
            channel.close()

    def _beat(self) -> None:
        self._row.stamp_beat()
        self._loop.call_later(BEAT, self._beat)
        self._sweep()
        self._sweep_streams()
        if self._batcher is not None:
            self._row.queued = self._batcher.size
        if self._row.completed != self._measured and time.monotonic() > self._measure_next:
            self._measured, self._measure_next = self._row.completed, time.monotonic() + MEASURE
            self._loop.run_in_executor(None, self._measure)

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        if frame.kind == Kind.REQUEST:
            self._accept(channel, frame)
        elif frame.kind == Kind.CANCEL:
            item = self._items.pop((channel, frame.id), None)
            if item is not None:
                self._cancel(item)
        elif frame.kind == Kind.OPEN:
            self._open_conversation(channel, frame)
        elif frame.kind in (Kind.PIECE, Kind.CREDIT, Kind.END):
            item = self._items.get((channel, frame.id))
            if item is not None and item.live is not None:
                on_stream_frame(item.live, frame)
        elif channel is self._control and isinstance(unpack(frame.body), Retire):
            self._retire()

    def on_lost(self, channel: Channel) -> None:
        if channel is self._control and not self._ending:
            os._exit(71)  # no supervisor, no worker
        self._closing.discard(channel)
        if self._ending and not self._closing:
            self._flushed.set()
        self._channels.discard(channel)
        for key in [key for key in self._items if key[0] is channel]:
            self._cancel(self._items.pop(key))

    def _cancel(self, item: Item) -> None:
        item.cancelled = item.request.client.gone = True
        if isinstance(item.live, Partner):
            self._conversations -= 1
            item.live.conversation.end(1006, "")
        elif item.live is not None:
            item.live.changed()

    def _accept(self, channel: Channel, frame: Frame) -> None:
        item, accepted = item_of(frame, channel)
        if self._batcher is None or self._row.phase is not Phase.READY:
            channel.send(Kind.RETURN, frame.id)
            return
        try:
            if self._config.sessions:
                self._enter_session(item)
            self._put(item, accepted)
        except ServingError as error:
            replies.send(item, error)

    def _put(self, item: Item, accepted: bool = False) -> None:
        """Queue a request, behind the other calls of its session. Raises QueueFull."""
        assert self._batcher is not None
        is_first = item.session is None or not self._one_by_one or self._sessions.enter(item)
        if is_first and not self._batcher.add(item, accepted):
            self._leave_session(item, failed=True)
            raise QueueFull(f"{self._batcher.queue_size} requests are waiting already")
        self._items[item.reply_to, item.id] = item
        self._row.queued = self._batcher.size
        self._batcher.tell_soon(self._loop.call_soon)

    # Conversations, on the loop's thread.

    def _open_conversation(self, channel: Channel, frame: Frame) -> None:
        head = _open_head.decode(frame.head)
        if self._batcher is None or self._row.phase is not Phase.READY:
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
        """From any thread."""
        self._deliver([(item, part)])

    # Sessions, on the loop's thread.

    def _enter_session(self, item: Item) -> None:
        """Find or open the session that a request is about. Raises a ServingError where that cannot be."""
        id = item.request.session_id
        kind = request_type(item.request) if self._answers_sessions else ""
        if id == NEW_SESSION or (id is None and kind == NEW_SESSION):
            item.session, item.opens = self._sessions.open(), True
            item.chore = created if kind == NEW_SESSION else None
            self._row.sessions = len(self._sessions)
        elif id is not None:
            item.session = self._sessions.find(id)
            item.chore = closed if kind == CLOSE else None
        if item.session is not None:
            item.request = msgspec.structs.replace(item.request, session=item.session)

    def _leave_session(self, item: Item, failed: bool) -> None:
        """A call of a session is over: end the session if that is due, and let the next call go on."""
        session = item.session
        if session is None:
            return
        following = self._sessions.leave(item) if self._one_by_one else None
        if session.is_closed or (item.opens and failed):
            for waiting in [following, *self._sessions.waiting(session)] if following is not None else []:
                if self._items.pop((waiting.reply_to, waiting.id), None) is not None:
                    replies.send(waiting, SessionClosed("the session was closed by a call before this one"))
            self._sessions.end(session, SessionClosed)
            self._row.sessions = len(self._sessions)
        elif following is not None and self._batcher is not None:
            self._batcher.put(following, accepted=True)

    def _sweep(self) -> None:
        """Sessions whose time is over end; the handler hears of it on its own thread."""
        for session in self._sessions.expired():
            self._sessions.end(session, SessionExpired)
            self._row.sessions = len(self._sessions)
            if self._batcher is not None:
                deadline = Deadline.after(self._config.request_timeout)
                self._batcher.put(Item(0, Request(deadline=deadline), session=session, chore=closed), accepted=True)

    def _sweep_streams(self) -> None:
        """An answer in pieces that nobody has ended in time was lost on the way to its client."""
        extra = max(0.0, self._config.stream_timeout - self._model.timeout) + LOST
        now = time.monotonic()
        for key, item in list(self._items.items()):
            if item.live is not None and now > item.request.deadline.at + extra:
                self._cancel(self._items.pop(key))

    def _reply(self, outcomes: list[Outcome]) -> None:
        for item, outcome in outcomes:
            key = (item.reply_to, item.id)
            if isinstance(outcome, PARTS):
                if key in self._items:
                    replies.send_part(item, outcome)
                continue
            if self._items.pop(key, None) is not None:
                self._conversations -= isinstance(outcome, Close)
                replies.send_last(item, outcome)
            self._leave_session(item, failed=isinstance(outcome, ServingError))
        if self._batcher is not None:
            self._row.queued = self._batcher.size

    def _retire(self) -> None:
        self._row.phase = Phase.RETIRING
        for item in self._items.values():
            if isinstance(item.live, Partner):
                item.live.conversation.end(GOING_AWAY, "the model is leaving")
        for channel in self._channels:
            channel.send_raw([pack(Retire())])
        if self._batcher is not None:
            self._batcher.close()
        else:
            os._exit(0)
