"""Endpoint: what all invocations of one HTTP worker share, and the rules by which their heads are read."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.config.config import Config
from serving.deadline import Deadline
from serving.errors import CodedError, Draining, NotFound, ServingError
from serving.frontend.answers import Answers
from serving.frontend.bodies import Bodies
from serving.frontend.health import ping
from serving.frontend.http.headers import Headers, header_value, printable, read_encoding, read_headers
from serving.frontend.http.target import read_target
from serving.frontend.invocation.invocation_head import InvocationHead
from serving.frontend.routing.connection import reply_head
from serving.frontend.routing.expiries import Expiries
from serving.frontend.routing.invocations import Invocations
from serving.frontend.routing.replicas import Replicas
from serving.http.headers import NEW_SESSION, check_all
from serving.http.paths import INVOCATIONS, invoked_model, is_own
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.model.model import DEFAULT_MODEL
from serving.model.names import model_name, target_name
from serving.request import BODILESS

COMMON = INVOCATIONS.encode()
KNOWN = 1024  # entries in each cache


class Endpoint:
    """What the invocations of one HTTP worker share. ``limit`` is the largest body in bytes, 0 for none, ``timeout``
    the seconds for a request whose model is not known yet.
    """

    def __init__(
        self,
        config: Config,
        board: Scoreboard,
        replicas: Replicas,
        invocations: Invocations,
        answers: Answers,
        new_id: Callable[[], str],
        bodies: Bodies,
    ) -> None:
        self.clock = monotonic
        self.board = board
        self.replicas = replicas
        self.invocations = invocations
        self.answers = answers
        self.bodies = bodies
        self.expiries = Expiries()
        self.slot: Slot
        self.limit = config.max_body
        self.timeout = config.request_timeout
        self.stream_timeout = config.stream_timeout
        self.new_id = new_id
        self._many = config.many
        self._sound: set[tuple[str, str]] = set()
        self._models: dict[str, str] = {}
        self._starts: dict[bytes, bytes] = {}
        self._defaults: Headers = []
        self._lines = b""

    # The head of a request.

    def read(self, url: bytes, headers: Headers) -> InvocationHead | None:
        """Parse the head of a POST; returns None where it is no invocation. Raises BadRequest where the target is no
        URL.
        """
        named, path = None, ""
        if url != COMMON:
            path = read_target(url).path
            named = invoked_model(path) if self._many else None
            if named is not None or path == INVOCATIONS:
                path = ""
            elif is_own(path):
                return None
        content_type, accept, sagemaker = read_headers(headers)
        model = encoding = ""
        error: ServingError | None = None
        try:
            if sagemaker or (content_type, accept) not in self._sound:
                self._check(content_type, accept, sagemaker)
            encoding = read_encoding(headers)
            model = self._named(named, sagemaker) if self._many else DEFAULT_MODEL
        except ServingError as exc:
            error = exc.with_traceback(None)
        session = sagemaker.get("session-id")
        return InvocationHead(
            headers=headers,
            model=model,
            load=self._many and named is None and session in (None, NEW_SESSION),
            content_type=content_type,
            accept=accept,
            sagemaker=sagemaker,
            attributes=sagemaker.get("custom-attributes"),
            id=printable(sagemaker.get("inference-id", "")[:64]),
            path=path,
            encoding=encoding,
            error=error,
            is_plain=bool(model) and error is None and session is None and not path and not encoding,
        )

    def ping(self) -> tuple[int, bytes]:
        """Return the status and the body of the response to GET /ping."""
        return ping(self.board.read_header(), self.clock())

    def _check(self, content_type: str, accept: str, sagemaker: dict[str, str]) -> None:
        check_all(content_type, accept, sagemaker)
        if len(self._sound) >= KNOWN:
            self._sound.clear()
        self._sound.add((content_type, accept))

    def _named(self, named: str | None, sagemaker: dict[str, str]) -> str:
        """Return the model that the path or the header names, "" where none does. Raises BadRequest."""
        if named is not None:
            return model_name(named)
        word = sagemaker.get("target-model", "")
        if not word:
            return ""
        found = self._models.get(word)
        if found is None:
            found = target_name(word)
            if len(self._models) >= KNOWN:
                self._models.clear()
            self._models[word] = found
        return found

    async def model_of(self, headers: Headers) -> str:
        """Return the model that a request other than an invocation is for. Raises a ServingError."""
        content_type, accept, sagemaker = read_headers(headers)
        check_all(content_type, accept, sagemaker)
        if not self._many:
            return DEFAULT_MODEL
        return self._named(None, sagemaker) or await self.invocations.default_model()

    async def find(self, head: InvocationHead, arrival: float, draining: bool) -> tuple[str, Deadline]:
        """Return the model of a request that arrived at the instant ``arrival``, loaded if the request loads it, and
        the request's deadline. Raises a ServingError where the model, or the path, does not take the request.
        """
        model = head.model or await self._default_model(head.path)
        if draining and self.replicas.known(model) is None:
            raise Draining("the server is stopping")
        continues = head.sagemaker.get("session-id", NEW_SESSION) != NEW_SESSION
        deadline = await self.invocations.deadline(model, head.load, arrival, continues)
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

    def start_of(self, head: bytes) -> bytes | None:
        """Return the first lines of a response, up to the value of Content-Length; None where its reply head is not a
        common one.
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
            start = STATUS_LINE[reply.status] + b"content-type: " + kind + b"\r\ncontent-length: "
            self._starts[head] = start
        return start
