"""Session hooks: the handler's calls about sessions, on the engine's thread."""

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
    """The calls.

    ``max_bytes`` limits the state of a session, 0 for no limit; ``check`` gets each exception of the handler.
    """

    def __init__(
        self, handler: Handler, calls: Calls, max_bytes: int, check: Callable[[BaseException], object]
    ) -> None:
        self._handler = handler
        self._calls = calls
        self._max_bytes = max_bytes
        self._check = check

    def before(self, item: Item, session: Session, now: float) -> Response | ServingError | None:
        """Run what precedes the model in a session's call. Returns the outcome where that was all, else None."""
        self._calls.one(item, now)
        try:
            if item.opens:
                self._handler.on_session_open(session)
                item.opened = True
            if item.command is None:
                return None
            outcome = item.command(self._handler, session)
            if session.is_closed:
                self._close(session)
            return outcome
        except BaseException as exc:
            self._check(exc)
            return predict_error(item, exc)

    def after(self, item: Item) -> None:
        """Check the state's size and whether the handler closed the session, after a call. Raises SessionTooLarge."""
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
