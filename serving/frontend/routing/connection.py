"""Connection: the socket from this HTTP worker to one replica. Settles every call exactly once."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from serving.errors import BadRequest, CodedError
from serving.frontend.routing.stream import Stream, Streamed
from serving.ipc.channel import Channel
from serving.ipc.messages import Address, Retire, unpack
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Row
from serving.ipc.wire import MAX_HEAD, Frame, FrameKind, OpenHead, ReplyHead, RequestHead
from serving.request import Body, Response
from serving.system import log

HUNG = 1.0  # seconds before its time is over from which on a call counts as hung: it began with the request
OPEN_TIME = 5.0  # seconds to connect, which takes long only where the replica's accept queue is full

_encoder = msgspec.msgpack.Encoder()
_ids = itertools.count(1)  # of all connections: a new connection must not reuse the ids of a lost one
reply_head = msgspec.msgpack.Decoder(ReplyHead).decode


class ReplicaLost(Exception):
    """The replica ended, or sent the request back, before it answered. ``ran``: user code may have worked on it."""

    def __init__(self, ran: bool) -> None:
        super().__init__("the replica was lost")
        self.ran = ran


class Waiter(Protocol):
    """The receiver of the reply to one request. Exactly one method is called, once, and none after ``forget``."""

    def on_reply(self, head: bytes, body: Body) -> None:
        """Take the whole reply; ``head`` is an encoded ReplyHead."""
        ...

    def on_begin(self, streamed: Streamed) -> None: ...

    def on_lost(self, lost: ReplicaLost) -> None: ...


class Call(NamedTuple):
    """One request and the future of its reply. ``disown`` tells the replica that a reply is not taken, by the request's
    id.
    """

    id: int
    reply: asyncio.Future[Response | Streamed]
    disown: Callable[[int], None]

    def on_reply(self, head: bytes, body: Body) -> None:
        if not self.reply.done():
            settle(self.reply, reply_head(head), body)
        elif reply_head(head).new_session is not None:  # the caller is cancelled but has not run yet to say so
            self.disown(self.id)

    def on_begin(self, streamed: Streamed) -> None:
        if self.reply.done():
            streamed.stream.cancel()
        else:
            self.reply.set_result(streamed)

    def on_lost(self, lost: ReplicaLost) -> None:
        if not self.reply.done():
            self.reply.set_exception(lost)


class Connection:
    """A connection to one replica. ``on_change`` is called when it opens, retires or ends."""

    def __init__(self, address: Address, row: Row, on_change: Callable[[Connection], None]) -> None:
        self.address = address
        self.row = row
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._retiring = False
        self._opening = True
        self._pending: dict[int, Waiter] = {}
        self._streams: dict[int, Stream] = {}
        # Ids of different HTTP workers must differ, in a replica and in its scoreboard row.
        self._prefix = (os.getpid() & 0xFFFFFF) << 40

    async def open(self) -> None:
        """Connect. Raises OSError where the replica is already gone, or does not accept within ``OPEN_TIME``."""
        try:
            async with asyncio.timeout(OPEN_TIME):
                _, self._channel = await self._loop.create_unix_connection(lambda: Channel(self), self.address.path)
        finally:
            self._opening = False
        self._on_change(self)

    @property
    def is_opening(self) -> bool:
        return self._opening

    @property
    def is_usable(self) -> bool:
        return self._channel is not None and self._channel.is_open and not self._retiring

    @property
    def is_retiring(self) -> bool:
        return self._retiring

    @property
    def is_dead(self) -> bool:
        """Whether the supervisor has killed the replica's process or seen it end."""
        return self.row.epoch != self.address.epoch or self.row.pid == 0

    @property
    def report(self) -> str:
        """The id of the report of the replica's end, if it should die."""
        return Runtime(Path(self.address.path).parent).report_id(self.address.epoch)

    def is_hung(self, now: float) -> bool:
        """Return whether the replica's process is about to be ended for a call that takes too long."""
        busy_until = self.row.busy_until
        return self.row.epoch == self.address.epoch and 0 < busy_until < now + HUNG

    def abandon(self) -> None:
        """Close a connection whose process is gone, although a child of that process may still hold the socket."""
        if self._channel is not None:
            self._channel.abort()

    @property
    def waiting(self) -> int:
        """The number of this HTTP worker's own requests that the replica has not answered."""
        return len(self._pending)

    @property
    def load(self) -> int:
        """The number of requests on this replica, as far as this HTTP worker can see."""
        return max(len(self._pending), self.row.queued) + max(len(self._streams), self.row.streams)

    @property
    def holds_others(self) -> bool:
        """Whether the replica has sessions, streams or conversations, which would be lost with its process."""
        return bool(self._streams or self.row.streams or self.row.sessions)

    def call(self, head: RequestHead | OpenHead, body: Body = b"") -> Call:
        """Send one request. The future gives a Response or a Streamed, or raises a ServingError or ReplicaLost. For a
        conversation it gives a Streamed without a response. Raises BadRequest where the headers are too large.
        """
        call = Call(self.next_id(), self._loop.create_future(), self._refuse_reply)
        self.send(head, body, call.id, call)
        return call

    def next_id(self) -> int:
        return self._prefix | next(_ids)

    def send(self, head: RequestHead | OpenHead, body: Body, id: int, waiter: Waiter) -> None:
        """Send one request whose reply goes to ``waiter``, whose ``on_lost`` may be called before this returns. Raises
        BadRequest where the headers are too large.
        """
        data = _encoder.encode(head)
        if len(data) > MAX_HEAD:
            raise BadRequest(f"the request's headers take {len(data)} bytes; at most {MAX_HEAD} are taken")
        self._pending[id] = waiter
        if self._channel is None:
            self._settle_lost(id, frozenset())
        else:
            self._channel.send(FrameKind.REQUEST if type(head) is RequestHead else FrameKind.OPEN, id, data, body)

    def forget(self, id: int) -> bool:
        """Cancel a call: a late reply is dropped. Returns False where it was settled before."""
        if self._pending.pop(id, None) is None:
            return False
        if self._channel is not None:
            self._channel.send(FrameKind.CANCEL, id)
        return True

    def abandon_reply(self, call: Call) -> None:
        """Discard a reply that came just as its caller was cancelled: stop its stream, and end the session that it
        opened.
        """
        if call.reply.done() and not call.reply.cancelled() and call.reply.exception() is None:
            reply = call.reply.result()
            if isinstance(reply, Streamed):
                reply.stream.cancel()
            elif reply.new_session is not None:
                self._refuse_reply(call.id)

    def _refuse_reply(self, id: int) -> None:
        if self._channel is not None:
            self._channel.send(FrameKind.CANCEL, id)

    def disown(self, session: str) -> None:
        """End a new session whose announcement the client has not received."""
        if self._channel is not None:
            self._channel.send(FrameKind.CANCEL, 0, session.encode())

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        if frame.kind == FrameKind.REPLY:
            waiter = self._pending.pop(frame.id, None)
            if waiter is not None:
                try:
                    waiter.on_reply(frame.head, frame.body)
                except Exception:
                    self._pending[frame.id] = waiter  # settled as lost when the error ends this connection
                    raise
        elif frame.kind == FrameKind.BEGIN:
            self._begin(channel, frame)
        elif frame.kind in (FrameKind.CHUNK, FrameKind.END, FrameKind.CREDIT):
            stream = self._streams.get(frame.id)
            if stream is not None:
                stream.on_frame(frame)
        elif frame.kind == FrameKind.RETURN:
            self._retire()
            self._settle_lost(frame.id, frozenset())
        elif frame.kind == FrameKind.CONTROL and isinstance(unpack(frame.body), Retire):
            self._retire()

    def _retire(self) -> None:
        if not self._retiring:
            self._retiring = True
            self._on_change(self)

    def _begin(self, channel: Channel, frame: Frame) -> None:
        waiter = self._pending.get(frame.id)
        if waiter is None:
            channel.send(FrameKind.CANCEL, frame.id)  # the first CANCEL may have come before the stream began
            return
        converses = not frame.head
        response = Response() if converses else response_of(reply_head(frame.head), frame.body)
        del self._pending[frame.id]
        stream = Stream(
            lambda kind, head, body: channel.send(kind, frame.id, head, body),
            lambda: self._forget_stream(frame.id),
            converses,
        )
        self._streams[frame.id] = stream
        waiter.on_begin(Streamed(response, stream))

    def _forget_stream(self, id: int) -> None:
        self._streams.pop(id, None)

    def on_lost(self, channel: Channel) -> None:
        self._channel = None
        for stream in list(self._streams.values()):
            stream.on_lost(self.report)
        # The worker is dead, so its row holds exactly what ran. If the row has a new owner, any request may have run.
        known = self.row.epoch == self.address.epoch
        ran = frozenset(self.row.running() if known else self._pending)
        for id in list(self._pending):
            self._settle_lost(id, ran)
        self._on_change(self)

    def _settle_lost(self, id: int, ran: frozenset[int]) -> None:
        waiter = self._pending.pop(id, None)
        if waiter is None:
            return
        try:
            waiter.on_lost(ReplicaLost(id in ran))
        except Exception as exc:  # the other calls must be settled all the same
            log.error("the loss of a request's replica could not be told", exc=exc)


def response_of(head: ReplyHead, body: Body) -> Response:
    sessions = (head.new_session, head.closed_session)
    return Response(body, head.content_type, head.status, head.custom_attributes, *sessions)


def settle(future: asyncio.Future[Response | Streamed], head: ReplyHead, body: Body) -> None:
    if head.code is None:
        future.set_result(response_of(head, body))
    else:
        message = bytes(body).decode("utf-8", "replace")
        future.set_exception(CodedError(head.status, head.code, message, head.retry_after))
