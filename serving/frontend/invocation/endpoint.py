"""Endpoint: what all invocations of one HTTP worker share."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.config.config import Config
from serving.deadline import Deadline
from serving.errors import BodyTooLarge, CodedError, Draining, NotFound, ServingError
from serving.frontend.bodies import Bodies
from serving.frontend.counting.counts import Counts, NoCounts
from serving.frontend.health import ping
from serving.frontend.http.headers import Headers, header_value
from serving.frontend.invocation.head_reader import HeadReader
from serving.frontend.invocation.invocation_head import InvocationHead
from serving.frontend.responses import Responses
from serving.frontend.routing.connection import reply_head
from serving.frontend.routing.expiries import Expiries
from serving.frontend.routing.invocations import Invocations
from serving.frontend.routing.replicas import Replicas
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.request import BODILESS

KNOWN = 1024  # heads of responses that are remembered


class Endpoint:
    """The state that all invocations of one HTTP worker share. ``limit`` is the largest body in bytes, 0 for none,
    ``timeout`` the seconds for a request whose model is not known yet.
    """

    def __init__(
        self,
        config: Config,
        board: Scoreboard,
        replicas: Replicas,
        invocations: Invocations,
        responses: Responses,
        new_id: Callable[[], str],
        bodies: Bodies,
    ) -> None:
        self.clock = monotonic
        self.board = board
        self.replicas = replicas
        self.invocations = invocations
        self.responses = responses
        self.bodies = bodies
        self.expiries = Expiries()
        self.slot: Slot
        self.counts: Counts = NoCounts()
        self.limit = config.max_body
        self.timeout = config.request_timeout
        self.stream_timeout = config.stream_timeout
        self.new_id = new_id
        self.heads = HeadReader(config.many)
        self._starts: dict[bytes, tuple[bytes, int]] = {}
        self._defaults: Headers = []
        self._lines = b""

    def ping(self) -> tuple[int, bytes]:
        """Return the status and the body of the response to GET /ping."""
        return ping(self.board.read_header(), self.clock())

    def too_large(self, length: int, size: int) -> ServingError | None:
        """Return the error for a body over the limit: ``length`` bytes were announced, ``size`` have arrived."""
        limit = self.limit
        if not limit or max(length, size) <= limit:
            return None
        if length > limit:
            return BodyTooLarge(f"the body has {length} bytes; at most {limit} are taken")
        return BodyTooLarge(f"the body has more than {limit} bytes, which is the limit")

    async def model_of(self, headers: Headers) -> str:
        """Return the model that a request other than an invocation is for. Raises a ServingError."""
        return self.heads.named_model(headers) or await self.invocations.default_model()

    async def find(self, head: InvocationHead, arrival: float, draining: bool) -> tuple[str, Deadline]:
        """Return the model of a request that arrived at the instant ``arrival``, loaded if the request loads it, and
        the request's deadline. Raises a ServingError where the model, or the path, does not take the request.
        """
        model = head.model or await self._default_model(head.path)
        if draining and self.replicas.known(model) is None:
            raise Draining("the server is stopping")
        deadline = await self.invocations.deadline(model, head.load, arrival, head.continues)
        if head.path:
            await self.invocations.takes(model, head.path, head.load, deadline)
        return model, deadline

    async def _default_model(self, path: str) -> str:
        try:
            return await self.invocations.default_model()
        except CodedError as error:
            if not path or error.status != 400:
                raise
            raise NotFound(f"POST {path} is not served here") from error

    # The head of a response.

    def default_lines(self, defaults: Headers) -> bytes:
        """Return the encoded headers that every response has; uvicorn replaces the list of them each second."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._lines = b"".join(b"%b: %b\r\n" % one for one in defaults)
        return self._lines

    def start_of(self, head: bytes) -> tuple[bytes, int] | None:
        """Return the first lines of a response, up to the value of Content-Length, and its status; None where its reply
        head is not a common one.
        """
        if self.board.is_draining:
            return None
        start = self._starts.get(head)
        if start is None:
            reply = reply_head(head)
            rare = (reply.code, reply.custom_attributes, reply.new_session, reply.closed_session) != (None,) * 4
            if rare or reply.status in BODILESS:
                return None
            if len(self._starts) >= KNOWN:
                self._starts.clear()
            kind = header_value(reply.content_type)
            lines = STATUS_LINE[reply.status] + b"content-type: " + kind + b"\r\ncontent-length: "
            start = self._starts[head] = lines, reply.status
        return start
