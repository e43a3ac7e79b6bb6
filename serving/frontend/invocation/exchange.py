"""Exchange: one invocation and its response, from the end of its head to the last byte of the
response that the client reads.

This is the only way for an invocation. What needs no wait is done at once, in callbacks; what needs one is a task that
the same exchange starts: to find the model, to ask a replica that is not at hand, to ask again after a loss, to pass on
a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

import msgspec

from serving.deadline import EARLY, Deadline
from serving.errors import CodedError, DeadlineExceeded, Draining, ServingError
from serving.frontend.invocation.border import Border
from serving.frontend.invocation.counted import Counted
from serving.frontend.invocation.endpoint import Endpoint
from serving.frontend.invocation.invocation_head import InvocationHead
from serving.frontend.invocation.state import State
from serving.frontend.invocation.streamed_reply import StreamedReply
from serving.frontend.responses import INVOCATION, LARGE, STREAM, EncodedResponse
from serving.frontend.routing.connection import Connection, ReplicaLost, reply_head, response_of
from serving.frontend.routing.stream import Streamed
from serving.ipc.wire import RequestHead
from serving.request import Body, Response
from serving.system import log

FINDING, READING, ASKED, STREAMING, LEAVING, ANSWERED, FAILED, GONE = State
Result = TypeVar("Result")


class Exchange(Counted, eq=False):
    """One request, whose response goes to ``border``. It is settled once.

    ``arrival`` and ``expires`` are instants, ``timeout`` is in seconds. ``headers`` are the names of the request's
    headers that the handler asks for. ``is_old``: the client speaks HTTP/1.0. ``refusal`` is the error for a request
    that came while the server was stopping; it is sent once the body has arrived. ``sent`` is the number of chunks
    sent. ``has_failed``: the response is an error.
    """

    endpoint: Endpoint
    border: Border
    arrival: float
    head: InvocationHead
    request_id: str
    timeout: float
    expires: float
    headers: tuple[str, ...] = ()
    keep_alive: bool = True
    is_old: bool = False
    sent: int = 0
    refusal: ServingError | None = None
    has_failed: bool = False
    _connection: Connection | None = None
    _id: int = 0
    _task: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _stream: StreamedReply | None = None
    _session: str | None = None

    # The model, where it must be found first.

    def find(self) -> None:
        """Begin to find the model. Nothing comes of it before the loop's next turn: what the client has sent already
        belongs to the request.
        """
        error = self.endpoint.too_large(self.length, self.size) or self.head.error
        if error is not None:
            asyncio.get_running_loop().call_soon(self.fail, error)
        else:
            is_draining = self.refusal is not None
            self._start(lambda: self.endpoint.find(self.head, self.arrival, is_draining), self._found)

    def _found(self, found: tuple[str, Deadline]) -> None:
        endpoint = self.endpoint
        model, deadline = found
        self.head = self.head._replace(model=model)
        self.has_model = True
        self.expires = deadline.at
        placement = endpoint.replicas.known(model)
        self.headers = placement.paths.headers if placement is not None else ()
        self.state = READING
        self._timer = asyncio.get_running_loop().call_later(self.expires - endpoint.clock(), self.expire)
        if self.is_whole:
            self._ask()
        else:
            self.border.go_ahead()

    # The replica.

    def _ask(self) -> None:
        """Send the request, whose body is complete, to a replica."""
        head, endpoint = self.head, self.endpoint
        try:
            connection = endpoint.replicas.at_hand(head.model) if head.is_plain else None
            if connection is None:
                self._ask_later(None)
                return
            sent = RequestHead(
                self.expires, self.request_id, head.content_type, head.accept, head.model, False, head.sagemaker
            )
            if self.headers:
                sent = msgspec.structs.replace(sent, headers=head.picked(self.headers))
            self._id, self._connection = connection.next_id(), connection
            self.state = ASKED
            connection.send(sent, self.body, self._id, self)
        except ServingError as error:
            self.fail(error)

    def _ask_later(self, lost: ReplicaLost | None) -> None:
        """Have a task send the request. ``lost`` is the failure of a first try, if there was one."""
        if self.refusal is not None:
            self.fail(self.refusal)
            return
        self.state = ASKED
        self._start(lambda: self._invoke(lost), self._take)

    async def _invoke(self, lost: ReplicaLost | None) -> Response | Streamed:
        request = self.head.request(self.body, self.request_id, Deadline(self.expires))
        return await self.endpoint.invocations.invoke(request, self.head.load, lost)

    def _take(self, response: Response | Streamed) -> None:
        if isinstance(response, Streamed):
            self.on_begin(response)
        else:
            self._respond(response)

    # The replica's reply: one of these, once.

    def on_reply(self, head: bytes, body: Body) -> None:
        self._connection = None
        start = self.endpoint.start_of(head)
        if start is not None and not self.head.attributes:
            lines, self.status = start
            self.sent_size = len(body)
            if self.border.reply(self, lines, body):
                return
        reply = reply_head(head)
        if reply.code is None:
            self._respond(response_of(reply, body))
        else:
            message = bytes(body).decode("utf-8", "replace")
            self.fail(CodedError(reply.status, reply.code, message, reply.retry_after))

    def on_begin(self, streamed: Streamed) -> None:
        self._connection = None
        endpoint, until = self.endpoint, max(self.expires, self.arrival + self.endpoint.stream_timeout)
        stream = self._stream = StreamedReply(self, self.border, endpoint.responses, streamed, until)
        self._start(lambda: self._pass_on(stream), self._end_stream)

    def on_lost(self, lost: ReplicaLost) -> None:
        self._connection = None
        self.count_retry()
        self._ask_later(lost)

    # The response.

    def _respond(self, response: Response) -> None:
        if response.new_session is None:
            self._send(response)
        else:  # it is announced only to a client that is still there
            self._session = response.new_session
            self._start(self.border.is_there, lambda is_there: self._send(response) if is_there else self.disconnect())

    def _send(self, response: Response) -> None:
        self._answer(self.endpoint.responses.encode(response, self.head.attributes, self.request_id))

    def _answer(self, whole: EncodedResponse) -> None:
        self.status, self.sent_size = whole.status, len(whole.body)
        if not self.is_whole:  # the rest of its body would be read as the next request
            self.keep_alive = False
        if len(whole.body) < LARGE or self.holds(whole.body):
            self.border.respond(self, whole)

    async def _pass_on(self, stream: StreamedReply) -> StreamedReply:
        self.status = stream.begin(self.head.attributes)
        self.state = STREAMING
        self._buffers = []
        self._stop_timer()
        await stream.pass_on(self.hold_chunk)
        return stream

    def _end_stream(self, stream: StreamedReply) -> None:
        self._stream = None
        stream.end()

    # The end.

    def fail(self, error: Exception) -> None:
        """Answer with ``error``. Does nothing once there is a response."""
        if self.state >= LEAVING:
            return
        stream = self._stream if self.state is STREAMING else None
        self._forget()
        self.has_failed = True
        responses = self.endpoint.responses
        failure = responses.report(error, INVOCATION if stream is None else STREAM, self.request_id)
        self.code = failure.code
        if stream is not None:
            stream.cut(failure)
        else:
            self._answer(responses.failure(failure, self.request_id))

    def expire(self) -> None:
        """Answer that the deadline has passed. Does nothing once the response has begun."""
        if self.state >= STREAMING:
            return
        if not self.is_whole:
            self.fail(DeadlineExceeded("the body did not arrive in time"))
            return
        connection = self._connection
        if self._forget() and connection is not None and self.expires - self.endpoint.clock() < EARLY:
            self.endpoint.replicas.report_overdue(connection)
        self.fail(self.endpoint.invocations.timed_out(self.head.model, connection))

    def give_up(self) -> None:
        self.fail(Draining((STREAM if self.state is STREAMING else INVOCATION).stopped))

    def disconnect(self) -> None:
        if self.state < ANSWERED:
            if not self.has_failed:
                log.debug(INVOCATION.disconnected, request_id=self.request_id)
                self.status = 0
            self._forget()
            self._end(FAILED if self.has_failed else GONE)

    def leave(self) -> None:
        self.state = LEAVING
        self._let_go()

    def settle(self) -> None:
        if self.state < ANSWERED:
            self._end(FAILED if self.has_failed else ANSWERED)

    def _end(self, state: State) -> None:
        self.state = state
        self._let_go()
        self.endpoint.slot.leave()
        self.count_end()
        self._release()

    def _let_go(self) -> None:
        """Release what is needed only until there is a response."""
        self._drop_body()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is None:
            self.endpoint.expiries.discard(self)
        else:
            self._timer.cancel()

    def end_within(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.border.abort)

    def _forget(self) -> bool:
        """Tell the replica that nobody waits for its reply. Returns False where it had no such request from here."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        if self._session is not None:
            self.endpoint.replicas.disown(self.head.model, self._session)
            self._session = None
        connection, self._connection = self._connection, None
        return connection is not None and connection.forget(self._id)

    def _start(self, work: Callable[[], Coroutine[None, None, Result]], then: Callable[[Result], None]) -> None:
        """Have a task do ``work``; ``then`` gets its result, unless the exchange is settled before."""
        self._task = asyncio.get_running_loop().create_task(self._await(work, then))

    async def _await(self, work: Callable[[], Coroutine[None, None, Result]], then: Callable[[Result], None]) -> None:
        try:
            result = await work()
            self._task = None
            then(result)
        except Exception as exc:
            self._task = None
            self.fail(exc)


def open_exchange(endpoint: Endpoint, border: Border, head: InvocationHead, length: int) -> Exchange:
    """Accept a request whose body has ``length`` bytes, 0 where unknown."""
    placement = endpoint.replicas.known(head.model)
    limit = endpoint.limit
    if placement is None or not head.is_plain or endpoint.board.is_draining or (limit and length > limit):
        return _open_unready(endpoint, border, head, length)
    arrival, timeout = endpoint.clock(), placement.timeout
    exchange = Exchange(endpoint, border, arrival, head, head.id or endpoint.new_id(), timeout, arrival + timeout)
    exchange.length, exchange.headers = length, placement.paths.headers
    exchange.has_model = True
    endpoint.slot.enter()
    endpoint.expiries.add(exchange)
    return exchange


def _open_unready(endpoint: Endpoint, border: Border, head: InvocationHead, length: int) -> Exchange:
    """Accept a request about which something must be found out before its body can be awaited."""
    arrival, timeout = endpoint.clock(), endpoint.timeout
    request_id = head.id or endpoint.new_id()
    exchange = Exchange(endpoint, border, arrival, head, request_id, timeout, arrival + timeout)
    exchange.state, exchange.length = FINDING, length
    if endpoint.board.is_draining:  # "accepted" is decided here: what comes after a SIGTERM is refused
        exchange.refusal = Draining("the server is stopping")
        exchange.head = head._replace(is_plain=False, load=False)
    endpoint.slot.enter()
    exchange.find()
    return exchange
