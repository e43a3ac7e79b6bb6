"""Sessions: the sessions of this replica. One lives in one replica epoch and ends when closed, expired or lost.

All of it runs on the loop's thread; only a session's ``state`` belongs to the engine's.
"""

from __future__ import annotations

import datetime
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from serving.deadline import Clock
from serving.errors import QueueFull, ServingError, SessionClosed, SessionExpired, SessionLimit, SessionNotFound
from serving.handler import Handler
from serving.http.headers import NEW_SESSION
from serving.request import Request, Response
from serving.session import Session
from serving.worker.batching.items import Item

CLOSE = "CLOSE"
BYTES = (bytes, bytearray)
REQUEST_LIMIT = 4096  # bytes; a body that asks for a session or its end is short
CALLS = 256  # pending in one session
REMEMBERED = 4096  # ended sessions whose end can still be explained


class SessionRequest(msgspec.Struct):
    """The body with which AWS's containers ask for a session or its end."""

    request_type: str = msgspec.field(name="requestType", default="")


_body = msgspec.json.Decoder(SessionRequest)


def request_type(request: Request) -> str:
    """Return ``NEW_SESSION`` or ``CLOSE`` for a body that asks for that and nothing else, else ``""``."""
    body = request.body
    if len(body) > REQUEST_LIMIT or b"requestType" not in (body if isinstance(body, BYTES) else bytes(body)):
        return ""
    try:
        kind = _body.decode(request.body).request_type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return kind if kind in (NEW_SESSION, CLOSE) else ""


@dataclass(slots=True, eq=False)
class OpenSession:
    """An open session: ``ends`` is an instant of the clock, ``opener`` the id of the request that opened it.

    ``calls`` are in order of arrival; the first one is running.
    """

    session: Session
    ends: float
    opener: int
    calls: deque[Item] = field(default_factory=deque)


class Sessions:
    """The open sessions, at most ``limit``, each for ``ttl`` seconds."""

    def __init__(self, make_id: Callable[[], str], ttl: float, limit: int, clock: Clock = time.monotonic) -> None:
        self._make_id = make_id
        self._ttl = ttl
        self._limit = limit
        self._clock = clock
        self._held: dict[str, OpenSession] = {}
        self._by_opener: dict[int, Session] = {}
        self._ended: OrderedDict[str, type[ServingError]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Session]:
        return iter([held.session for held in self._held.values()])

    @property
    def are_called(self) -> bool:
        """Whether a call is not answered yet. From any thread."""
        return any(held.calls for held in list(self._held.values()))

    def open(self, opener: int) -> Session:
        """Open a session for the request with id ``opener``. Raises SessionLimit."""
        if len(self._held) >= self._limit:
            raise SessionLimit(f"{self._limit} sessions are open here, which is the limit")
        # A session ends up to a second later than announced, never earlier.
        expires = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=self._ttl)
        session = Session(self._make_id(), expires)
        self._held[session.id] = OpenSession(session, self._clock() + self._ttl, opener)
        self._by_opener[opener] = session
        return session

    def opened_by(self, opener: int) -> Session | None:
        """Return the session that a request opened. From any thread."""
        return self._by_opener.get(opener)

    def get(self, id: str) -> Session | None:
        held = self._held.get(id)
        return held.session if held is not None else None

    def expire(self, session: Session) -> None:
        """Set the session's end to now."""
        if (held := self._held.get(session.id)) is not None:
            held.ends = self._clock()

    def find(self, id: str) -> Session:
        """Return an open session. Raises SessionNotFound, SessionExpired or SessionClosed."""
        held = self._held.get(id)
        if held is not None and self._clock() < held.ends and not held.session.is_closed:
            return held.session
        fate = self._ended.get(id, SessionNotFound) if held is None else SessionExpired
        if held is not None and held.session.is_closed:
            fate = SessionClosed
        raise fate(f"session {id[:8]}… {FATES[fate]}")

    def end(self, session: Session, fate: type[ServingError]) -> None:
        if (held := self._held.pop(session.id, None)) is not None:
            self._by_opener.pop(held.opener, None)
            self._ended[session.id] = fate
            while len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)

    def expired(self) -> list[Session]:
        """Return expired sessions without a running call."""
        now = self._clock()
        return [held.session for held in self._held.values() if now >= held.ends and not held.calls]

    def enter(self, item: Item) -> bool:
        """Add a call of a session. Returns False where it waits for earlier ones. Raises QueueFull."""
        assert item.session is not None
        calls = self._held[item.session.id].calls
        if len(calls) >= CALLS:
            raise QueueFull(f"{len(calls)} calls of this session are waiting already")
        calls.append(item)
        return len(calls) == 1

    def leave(self, item: Item) -> Item | None:
        """Remove an answered call. Returns the next one whose client still waits."""
        held = self._held.get(item.session.id) if item.session is not None else None
        if held is None:
            return None
        held.calls.remove(item)
        while held.calls and held.calls[0].cancelled:
            held.calls.popleft()
        return held.calls[0] if held.calls else None

    def waiting(self, session: Session) -> list[Item]:
        """Return the calls behind the running one."""
        held = self._held.get(session.id)
        return list(held.calls)[1:] if held is not None else []


FATES: dict[type[ServingError], str] = {
    SessionNotFound: "is unknown",
    SessionExpired: "has expired",
    SessionClosed: "is closed",
}


def created(handler: Handler, session: Session) -> Response:
    """Return the answer to a request for a session. The engine has called ``on_session_open`` before."""
    body = {"session_id": session.id, "expires": f"{session.expires:%Y-%m-%dT%H:%M:%SZ}"}
    return Response(msgspec.json.encode(body), "application/json")


def closed(handler: Handler, session: Session) -> Response:
    """Close the session and return the answer to a request for that."""
    session.close()
    return Response(msgspec.json.encode({"session_id": session.id, "closed": True}), "application/json")
