"""Session calls: the rules of sessions for incoming requests and outgoing answers.

All of it runs on the loop's thread, except where a docstring says otherwise.
"""

from __future__ import annotations

import msgspec

from serving.config.config import Config
from serving.deadline import Deadline
from serving.errors import SessionClosed, SessionExpired
from serving.http.headers import NEW_SESSION
from serving.ipc.scoreboard import Row
from serving.request import Request
from serving.session import Session, SessionAddress, make_id
from serving.worker.batching.items import Item
from serving.worker.io import replies
from serving.worker.io.sessions import CLOSE, Sessions, closed, created, request_type


class SessionCalls:
    """The calls of all sessions. ``items`` are all requests of this worker by id, also those without a session.

    ``takes_requests``: sessions are opened and closed here, not by the handler. ``one_by_one``: the calls of one
    session do not overlap.
    """

    def __init__(self, config: Config, row: Row, address: SessionAddress, items: dict[int, Item]) -> None:
        self.takes_requests = True
        self.one_by_one = True
        self._config = config
        self._row = row
        self._address = address
        self._items = items
        self._sessions = self._none()

    def _none(self) -> Sessions:
        return Sessions(lambda: make_id(self._address), self._config.session_ttl, self._config.session_limit)

    def open_sessions(self) -> list[Session]:
        """Return the open sessions. From any thread."""
        return list(self._sessions)

    @property
    def are_waited_for(self) -> bool:
        """Whether a call is not answered yet. From any thread."""
        return self._sessions.are_called

    def forget(self) -> None:
        """Drop all sessions."""
        self._sessions, self._row.sessions = self._none(), 0

    def concern(self, request: Request) -> bool:
        """Return whether a request is a session's. From any thread."""
        if not self._config.sessions:
            return False
        return "session-id" in request.sagemaker or (self.takes_requests and request_type(request) == NEW_SESSION)

    def enter(self, item: Item) -> None:
        """Find or open the session of a request. Raises a ServingError where there is none."""
        if not self._config.sessions:
            return
        id = item.request.session_id
        kind = request_type(item.request) if self.takes_requests else ""
        if id == NEW_SESSION or (id is None and kind == NEW_SESSION):
            item.session, item.opens = self._sessions.open(item.id), True
            item.command = created if kind == NEW_SESSION else None
            self._row.sessions = len(self._sessions)
        elif id is not None:
            item.session = self._sessions.find(id)
            item.command = closed if kind == CLOSE else None
        if item.session is not None:
            item.request = msgspec.structs.replace(item.request, session=item.session)

    def is_first(self, item: Item) -> bool:
        """Return whether a request need not wait for an earlier call of its session. Raises QueueFull."""
        return item.session is None or not self.one_by_one or self._sessions.enter(item)

    def leave(self, item: Item, failed: bool) -> Item | None:
        """End a call of a session, and the session if that is due. Returns the next call to run.

        ``failed``: the answer was an error, or the client had left.
        """
        session = item.session
        assert session is not None
        following = self._sessions.leave(item) if self.one_by_one else None
        if not session.is_closed and not (item.opens and failed):
            return following
        for waiting in [following, *self._sessions.waiting(session)] if following is not None else []:
            if self._items.pop(waiting.id, None) is not None:
                replies.send(waiting, SessionClosed("the session was closed by a call before this one"))
        if item.opened and not session.is_closed:
            self._sessions.expire(session)  # the engine's thread tells the handler
            return None
        self._sessions.end(session, SessionClosed)
        self._row.sessions = len(self._sessions)
        return None

    def opened_by(self, request: int) -> bool:
        """Return whether the request with this id opened a session. From any thread."""
        return self._sessions.opened_by(request) is not None

    def disown(self, request: int, id: str) -> None:
        """End a session whose id never reached its client."""
        session = self._sessions.get(id) if id else self._sessions.opened_by(request)
        if session is not None and not session.is_closed:
            self._sessions.expire(session)

    def expire(self) -> list[Item]:
        """End expired sessions. Returns items with which the engine's thread tells the handler."""
        commands = []
        for session in self._sessions.expired():
            self._sessions.end(session, SessionExpired)
            self._row.sessions = len(self._sessions)
            deadline = Deadline.after(self._config.request_timeout)
            commands.append(Item(0, Request(deadline=deadline), session=session, command=closed, own=True))
        return commands
