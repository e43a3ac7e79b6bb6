"""Invocations: exactly one response to each request, whatever happens to the worker that computes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from time import monotonic

from serving.deadline import EARLY, Deadline
from serving.errors import (
    CodedError,
    DeadlineExceeded,
    ModelLoading,
    ModelNotLoaded,
    NotFound,
    ServingError,
    SessionLost,
    SessionNotFound,
    SessionsDisabled,
    WorkerDied,
)
from serving.frontend.http.headers import picked
from serving.frontend.routing.connection import Connection, ReplicaLost
from serving.frontend.routing.replicas import Replicas
from serving.frontend.routing.stream import Stream, Streamed
from serving.http.headers import NEW_SESSION
from serving.http.paths import INVOCATIONS
from serving.ipc.messages import FindDefault
from serving.ipc.wire import OpenHead, RequestHead
from serving.request import Request, Response
from serving.session import SessionAddress, address_of

DEFAULT_KNOWN = 1.0  # seconds for which the name of the default model is remembered
TRIES = 2  # deaths of a worker while a request runs, after which the request fails


class DefaultModel:
    """The name of the default model. ``find`` is costly: one call runs at a time, and its result, also an error, is
    reused for a second.
    """

    def __init__(self, find: Callable[[], Coroutine[None, None, str]], clock: Callable[[], float] = monotonic) -> None:
        self._find = find
        self._clock = clock
        self._found: asyncio.Task[str] | None = None
        self._good_until = 0.0

    async def name(self) -> str:
        if self._found is None or (self._found.done() and self._clock() > self._good_until):
            self._found = asyncio.get_running_loop().create_task(self._ask())
            self._found.add_done_callback(retrieve)
        return await asyncio.shield(self._found)

    async def _ask(self) -> str:
        try:
            return await self._find()
        finally:
            self._good_until = self._clock() + DEFAULT_KNOWN


def retrieve(found: asyncio.Task[str]) -> None:
    """Mark the task's error as seen: all callers may be gone, and asyncio complains about an error that nobody
    retrieves.
    """
    if not found.cancelled():
        found.exception()


class Invocations:
    """Sends requests to replicas. ``timeout``, in seconds, bounds the search for a model whose own time-out is not
    known yet.

    ``instance`` identifies this server in session ids; without ``sessions`` every session id is refused.
    """

    def __init__(self, replicas: Replicas, timeout: float, instance: str, sessions: bool) -> None:
        self._instance = instance
        self._sessions = sessions
        self._replicas = replicas
        self._timeout = timeout
        self.clock = monotonic
        self._default = DefaultModel(self._find_default)

    async def default_model(self) -> str:
        """Return the model for requests that name none. Raises BadRequest where there is no default."""
        return await self._default.name()

    async def _find_default(self) -> str:
        return (await self._replicas.link.ask(FindDefault, self._timeout)).name

    async def deadline(self, model: str, load: bool, arrival: float, continues: bool = False) -> Deadline:
        """Return the deadline of a request for ``model`` that arrived at the instant ``arrival``.

        Loads the model first if ``load`` and it is not loaded. Raises a ServingError where the model is not available;
        SessionLost where the request ``continues`` a session and the model is not loaded.
        """
        placement = self._replicas.known(model)
        if placement is None:
            try:
                async with asyncio.timeout_at(arrival + self._timeout):
                    placement = await self._replicas.placement(model, load, self._patience(arrival, self._timeout))
            except TimeoutError:
                raise ModelLoading(f"model {model} is being unpacked") from None
            except CodedError as error:
                if continues and error.code == ModelNotLoaded.code:
                    raise SessionLost("the session was lost with its model's process") from error
                raise
        return Deadline(arrival + placement.timeout)

    def _patience(self, arrival: float, timeout: float) -> float:
        # A little less than the request's own time, so that "no room" is answered before the deadline.
        return arrival + 0.95 * timeout

    async def invoke(
        self, request: Request, load: bool = False, lost: ReplicaLost | None = None
    ) -> Response | Streamed:
        """Return a replica's response, whole or streamed. Raises a ServingError, at the request's deadline at the
        latest.

        ``lost`` is the failure of a first try, if there was one.
        """
        try:
            async with asyncio.timeout(request.deadline.remaining(self.clock)):
                return await self._retry_until_response(request, load, lost)
        except TimeoutError:
            raise self.timed_out(request.model) from None

    async def _retry_until_response(
        self, request: Request, load: bool, lost: ReplicaLost | None
    ) -> Response | Streamed:
        address = self._address(request.session_id)
        moves = int(lost is not None)
        deaths = int(lost is not None and lost.ran)
        patience = request.deadline.at - 0.05 * request.deadline.remaining(self.clock)
        while True:
            if address is not None:
                connection = await self._replicas.holder(request.model, address)
            else:
                connection = await self._replicas.pick(request.model, load, patience, moves > 0, deaths > 0)
            try:
                return await self._call(connection, request, deaths > 0, moves > 0)
            except ReplicaLost as lost:
                if address is not None:
                    report = connection.report if lost.ran else ""
                    raise SessionLost("the session was lost with its model's process", report) from lost
                moves += 1
                # A running request may have killed the worker: it gets one more try, where it can hurt nobody.
                # A request that was only queued moves on, and the death does not count.
                deaths += lost.ran
                if deaths >= TRIES:
                    why = "the model's process died while it worked on this request, twice"
                    raise WorkerDied(why, connection.report) from lost

    async def invoke_each(self, request: Request) -> list[Response]:
        """Return the responses of all replicas of a loaded model, except those that are lost meanwhile. Raises the
        first ServingError of a replica, or DeadlineExceeded.
        """
        found: list[Response] = []
        try:
            async with asyncio.timeout(request.deadline.remaining(self.clock)):
                for one in self._replicas.all_of(request.model):
                    with contextlib.suppress(ReplicaLost):
                        response = await self._call(one, request, False, False)
                        found += [response] if isinstance(response, Response) else []
        except TimeoutError:
            raise self.timed_out(request.model) from None
        return found

    async def takes(self, model: str, path: str, load: bool, deadline: Deadline) -> None:
        """Check that the model's handler takes POST requests to ``path``. Raises NotFound where it does not."""
        try:
            async with asyncio.timeout(deadline.remaining(self.clock)):
                await self._replicas.pick(model, load, deadline.at)
        except TimeoutError:
            raise self.timed_out(model) from None
        placement = self._replicas.known(model)
        if placement is None or path not in placement.paths.post:
            raise NotFound(f"POST {path} is not served here")

    async def converse(self, head: OpenHead, load: bool, deadline: Deadline) -> Stream:
        """Open a conversation with a replica. Raises a ServingError, at the deadline at the latest."""
        try:
            async with asyncio.timeout(deadline.remaining(self.clock)):
                return await self._until_open(head, load, deadline)
        except TimeoutError:
            raise self.timed_out(head.model) from None

    async def _until_open(self, head: OpenHead, load: bool, deadline: Deadline) -> Stream:
        while True:
            connection = await self._replicas.pick(head.model, load, deadline.at)
            placement = self._replicas.known(head.model)
            if placement is None or head.path not in placement.paths.websocket:
                raise NotFound(f"there is no WebSocket at {head.path}")
            call = connection.call(head)
            try:
                reply = await call.reply
            except ReplicaLost:
                continue  # the conversation had not begun
            except BaseException:
                connection.abandon_reply(call)
                raise
            finally:
                connection.forget(call.id)
            assert isinstance(reply, Streamed)
            return reply.stream

    def _address(self, session: str | None) -> SessionAddress | None:
        """Return the address of the replica that holds the session; None where any replica will do. Raises
        SessionsDisabled or SessionNotFound.
        """
        if session is None:
            return None
        if not self._sessions:
            raise SessionsDisabled("this server keeps no sessions")
        if session == NEW_SESSION:
            return None
        address = address_of(session)
        if address is None or address.instance != self._instance:
            raise SessionNotFound("the session is unknown to this server")
        return address

    async def _call(self, connection: Connection, request: Request, alone: bool, accepted: bool) -> Response | Streamed:
        head = RequestHead(
            request.deadline.at,
            request.request_id,
            request.content_type,
            request.accept,
            request.model,
            alone,
            dict(request.sagemaker),
            accepted,
            request.path if request.path != INVOCATIONS else "",
            request.content_encoding,
            self._picked(request),
        )
        call = connection.call(head, request.body)
        try:
            return await call.reply
        except BaseException:
            connection.abandon_reply(call)
            raise
        finally:
            if connection.forget(call.id) and request.deadline.remaining(self.clock) < EARLY:
                self._replicas.report_overdue(connection)
            # Break the cycle of error, frame and future, which would keep the body until the next garbage collection.
            del call

    def _picked(self, request: Request) -> dict[str, str] | None:
        """Return the request's headers that the model's handler asks for."""
        placement = self._replicas.known(request.model)
        return None if placement is None else picked(request.headers, placement.paths.headers)

    def timed_out(self, model: str, asked: Connection | None = None) -> ServingError:
        """Return the error for a request whose deadline has passed. It names the report of the replica that hangs: the
        one that was ``asked``, or where that is not known the only one.
        """
        placement = self._replicas.known(model)
        if placement is None or placement.loading:
            return ModelLoading(f"model {model} is still loading")
        now = self.clock()
        hung = [one for one in ([asked] if asked is not None else self._replicas.all_of(model)) if one.is_hung(now)]
        report = hung[0].report if len(hung) == 1 else ""
        return DeadlineExceeded(f"no answer within {placement.timeout:g} s", report)
