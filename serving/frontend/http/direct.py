"""Direct: the parts of an HTTP worker with which plain invocations are answered without ASGI.

What is not plain goes through ASGI: other paths, sessions, models that are not known or not loaded yet, and every
request while the server is stopping. A plain invocation continues in ASGI if its response is streamed or its replica is
lost.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.config.config import Config
from serving.errors import ServingError
from serving.frontend.answers import Answers
from serving.frontend.bodies import Bodies, Held
from serving.frontend.health import ping
from serving.frontend.http.exchange import Exchange
from serving.frontend.http.headers import Headers, header_value, read_encoding, read_headers
from serving.frontend.http.plain import Plain
from serving.frontend.routing.connection import reply_head
from serving.frontend.routing.expiries import Expiries
from serving.frontend.routing.invocations import Invocations
from serving.frontend.routing.replicas import Replicas
from serving.http.headers import check_all
from serving.ipc.scoreboard import Scoreboard, Slot
from serving.model.model import DEFAULT_MODEL
from serving.model.names import model_name, target_name
from serving.request import BODILESS

if TYPE_CHECKING:
    from serving.frontend.http.direct_protocol import DirectProtocol

INVOCATIONS = b"/invocations"
MODELS, INVOKE = b"/models/", b"/invoke"
LARGEST = 1 << 30  # bytes; a body with a larger Content-Length goes through ASGI, which needs no buffer up front
KNOWN = 1024  # entries in each cache
PING_LINES = b"content-type: application/json\r\ncontent-length: "


class Direct:
    """The state that all connections of one HTTP worker share for plain invocations."""

    def __init__(
        self,
        config: Config,
        board: Scoreboard,
        replicas: Replicas,
        invocations: Invocations,
        answers: Answers,
        new_id: Callable[[], str],
        bodies: Bodies,
        resume: Callable[..., ASGIApp],
        go_on: Callable[[Plain, float, str, float, Held], ASGIApp],
    ) -> None:
        self.clock = monotonic
        self.replicas = replicas
        self.invocations = invocations
        self.answers = answers
        self.bodies = bodies
        self.resume = resume
        self.go_on = go_on
        self.expiries = Expiries()
        self.slot: Slot
        self.limit = config.max_body
        self._board = board
        self._many = config.many
        self.new_id = new_id
        self._sound: set[tuple[str, str]] = set()
        self._models: dict[str | bytes, str] = {}
        self._starts: dict[bytes, bytes] = {}
        self._defaults: Headers = []
        self._lines = b""

    def read(self, url: bytes, headers: Headers) -> Plain | None:
        """Parse the head of a POST; returns None where ASGI is to answer it."""
        named = None
        if url != INVOCATIONS:
            if not (self._many and url.startswith(MODELS) and url.endswith(INVOKE)):
                return None
            named = url[len(MODELS) : -len(INVOKE)]
        content_type, accept, sagemaker = read_headers(headers)
        try:
            if read_encoding(headers):
                return None
            if sagemaker or (content_type, accept) not in self._sound:
                self._check(content_type, accept, sagemaker)
            model = self._model_of(named, sagemaker) if self._many else DEFAULT_MODEL
        except ServingError:
            return None
        if "session-id" in sagemaker:
            return None
        load = self._many and named is None
        attributes, id = sagemaker.get("custom-attributes"), sagemaker.get("inference-id", "")[:64]
        return Plain(url, headers, model, load, content_type, accept, sagemaker, attributes, id)

    def open(self, protocol: DirectProtocol, plain: Plain, length: int) -> Exchange | None:
        """Begin an exchange whose body has ``length`` bytes, 0 where unknown; returns None where ASGI is to
        answer it.
        """
        placement = self.replicas.known(plain.model)
        if placement is None or self._board.is_draining or (self.limit and length > self.limit) or length > LARGEST:
            return None
        arrival, timeout = self.clock(), placement.timeout
        exchange = Exchange(self, protocol, plain, plain.id or self.new_id(), arrival, timeout, arrival + timeout)
        exchange.length, exchange.headers = length, placement.paths.headers
        self.slot.enter()
        self.expiries.add(exchange)
        return exchange

    def _check(self, content_type: str, accept: str, sagemaker: dict[str, str]) -> None:
        check_all(content_type, accept, sagemaker)
        if len(self._sound) >= KNOWN:
            self._sound.clear()
        self._sound.add((content_type, accept))

    def _model_of(self, named: bytes | None, sagemaker: dict[str, str]) -> str:
        """Return the model that the path or the header names, "" where none does. Raises BadRequest."""
        word = sagemaker.get("target-model", "") if named is None else named
        if not word:
            return ""
        found = self._models.get(word)
        if found is None:
            found = target_name(word) if isinstance(word, str) else model_name(word.decode("latin-1"))
            if len(self._models) >= KNOWN:
                self._models.clear()
            self._models[word] = found
        return found

    def ping(self, protocol: DirectProtocol) -> tuple[bytes, bool]:
        """Return the whole response to GET /ping, and whether the connection ends with it."""
        status, body = ping(self._board.read_header(), self.clock())
        ends = self._board.is_draining
        tail = b"\r\nconnection: close\r\n\r\n" if ends else b"\r\n\r\n"
        size, id = b"%d" % len(body), b"\r\nx-request-id: " + self.new_id().encode()
        lines = (STATUS_LINE[status], self.default_lines(protocol), PING_LINES, size, id, tail, body)
        return b"".join(lines), ends

    def default_lines(self, protocol: DirectProtocol) -> bytes:
        """Return the encoded headers that every response has; uvicorn replaces them each second."""
        headers = protocol.server_state.default_headers
        if headers is not self._defaults:
            self._defaults = headers
            self._lines = b"".join(b"%b: %b\r\n" % one for one in headers)
        return self._lines

    def start_of(self, head: bytes) -> bytes | None:
        """Return the first lines of a response, up to the value of Content-Length; None where its reply head is not a
        common one.
        """
        if self._board.is_draining:
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
