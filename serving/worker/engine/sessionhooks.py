"""Session hooks: what the handler hears of sessions, on the engine's thread."""

from __future__ import annotations

from collections.abc import Callable

from serving.errors import ServingError
from serving.handler import Handler
from serving.request import Response
from serving.session import Session
from serving.worker.batching.batcher import Item
from serving.worker.engine.calls import Calls
from serving.worker.engine.checks import check_size
from serving.worker.engine.failures import predict_error


class SessionHooks:
    """``max_bytes`` is the largest state of a session, 0 for any; ``check`` hears what the handler raises."""

    def __init__(
        self, handler: Handler, calls: Calls, max_bytes: int, check: Callable[[BaseException], object]
    ) -> None:
        self._handler = handler
        self._calls = calls
        self._max_bytes = max_bytes
        self._check = check

    def begin(self, item: Item, session: Session, now: float) -> Response | ServingError | None:
        """What a session's call does before the model; the outcome where that was all."""
        self._calls.one(item, now)
        try:
            if item.opens:
                self._handler.on_session_open(session)
                item.opened = True
            if item.chore is None:
                return None
            outcome = item.chore(self._handler, session)
            if session.is_closed:
                self._close(session)
            return outcome
        except BaseException as exc:
            self._check(exc)
            return predict_error(item, exc)

    def end(self, item: Item) -> None:
        """After a call: is the session's state too large, has the handler closed it? Raises SessionTooLarge."""
        session = item.session
        if session is None:
            return
        try:
            check_size(session, self._max_bytes)
        finally:
            if session.is_closed:
                self._close(session)

    def _close(self, session: Session) -> None:
        self._calls.again()
        self._handler.on_session_close(session)
