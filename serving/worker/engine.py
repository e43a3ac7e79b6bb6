"""Engine: the one thread that runs user code, and the rule for each way in which user code can fail.

Every call of user code is announced on the scoreboard with the latest deadline of the requests it works on, so that the
supervisor can end it; the requests stay listed as running until their answers are handed over.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from serving import codecs, log
from serving.errors import (
    BadRequest,
    CodedError,
    DeadlineExceeded,
    HandlerError,
    OutOfMemory,
    ServingError,
    SessionTooLarge,
)
from serving.handler import Handler
from serving.request import Response
from serving.session import Session, size_of
from serving.worker.batcher import Batcher, Item

DROP_TIME = 5.0  # seconds that the destructors of a dropped request's sample may take

Outcome = tuple[Item, Response | ServingError]


class Stamps(Protocol):
    """The engine's side of the scoreboard row."""

    def start(self, ids: Sequence[int], until: float) -> None: ...

    def finish(self, completed: int) -> None: ...


class Engine:
    """``deliver`` gets the outcomes of each batch, on the engine's thread; each request has exactly one outcome."""

    def __init__(
        self,
        handler: Handler,
        batcher: Batcher,
        stamps: Stamps,
        deliver: Callable[[list[Outcome]], None],
        default_accept: str = "application/json",
        session_max_bytes: int = 0,
    ) -> None:
        self._session_max_bytes = session_max_bytes
        self._handler = handler
        self._batcher = batcher
        self._stamps = stamps
        self._deliver = deliver
        self._default_accept = default_accept

    def run(self) -> None:
        """Work until the batcher is closed and empty."""
        while self._batcher.wait():
            self.step()

    def step(self) -> None:
        """Decode what has arrived, until a batch is full; then run the batch that is due, if any."""
        while (item := self._batcher.next_arrival()) is not None:
            self._decode(item)
        taken = self._batcher.take()
        self._drop([*taken.expired, *taken.cancelled])
        self._settle_cancelled(taken.cancelled)
        outcomes = [expired(item) for item in taken.expired]
        if taken.batch:
            outcomes += self._run(taken.batch)
        if outcomes:
            self._settle(outcomes)

    def _settle_cancelled(self, items: list[Item]) -> None:
        """Nobody waits for these, but for the next call of their session."""
        outcomes = [expired(item) for item in items if item.session is not None]
        if outcomes:
            self._settle(outcomes)

    def _drop(self, items: list[Item]) -> None:
        """Let go of samples under the eyes of the supervisor: what user code made, user code may destroy."""
        if any(item.sample is not None for item in items):
            self._stamps.start((), time.monotonic() + DROP_TIME)
            for item in items:
                item.sample = None
            self._stamps.finish(0)

    def _settle(self, outcomes: list[Outcome]) -> None:
        # The answers are handed over before the scoreboard forgets the requests: if the worker dies in between they
        # are tried again, never lost.
        self._deliver(outcomes)
        self._stamps.finish(len(outcomes))

    def _decode(self, item: Item) -> None:
        if item.cancelled:
            self._settle_cancelled([item])
            return
        if item.request.deadline.expired():
            self._settle([expired(item)])
            return
        self._stamps.start((item.id,), item.request.deadline.at)
        if item.session is not None and not self._begin(item, item.session):
            return
        try:
            item.sample = self._handler.decode(item.request)
        except BaseException as exc:
            self._settle([(item, decode_error(item, exc))])
            return
        try:
            self._batcher.admit(item, self._handler.bucket(item.sample))
        except BaseException as exc:
            self._settle([(item, predict_error(item, exc))])
            return
        self._stamps.finish(0)

    def _begin(self, item: Item, session: Session) -> bool:
        """What a session's call does before the model; False where that was all."""
        try:
            if item.opens:
                self._handler.on_session_open(session)
            if item.chore is None:
                return True
            outcome: Response | ServingError = item.chore(self._handler, session)
            if session.is_closed:
                self._handler.on_session_close(session)
        except BaseException as exc:
            outcome = predict_error(item, exc)
        self._settle([(item, outcome)])
        return False

    def _run(self, batch: list[Item]) -> list[Outcome]:
        """Run one batch; where it fails as a whole, its halves, so that only the bad request fails."""
        now = time.monotonic()
        live = [item for item in batch if item.request.deadline.at > now]
        outcomes = [expired(item) for item in batch if item.request.deadline.at <= now]
        if not live:
            return outcomes
        self._stamps.start([item.id for item in live], max(item.request.deadline.at for item in live))
        try:
            outputs = self._predict([item.sample for item in live])
        except BaseException as exc:
            if len(live) == 1:
                failed = (live[0], predict_error(live[0], exc))
                live[0].sample = None
                return [*outcomes, failed]
            log.warning("a batch failed; running its members apart", size=len(live), error=describe(exc))
            middle = len(live) // 2
            return [*outcomes, *self._run(live[:middle]), *self._run(live[middle:])]
        outcomes += [self._encode(item, output) for item, output in zip(live, outputs, strict=True)]
        for item in live:
            item.sample = None  # while the supervisor still watches, and on this thread
        return outcomes

    def _predict(self, samples: list[Any]) -> Sequence[Any]:
        import torch

        handler = self._handler
        with torch.inference_mode():
            outputs = handler.split(handler.predict(handler.collate(samples)), len(samples))
        if len(outputs) != len(samples):
            raise HandlerError(f"the handler gave {len(outputs)} outputs for {len(samples)} requests")
        return outputs

    def _check_session(self, session: Session) -> None:
        """After a call: is its state too large, has the handler closed it? Raises SessionTooLarge."""
        try:
            check_size(session, self._session_max_bytes)
        finally:
            if session.is_closed:
                self._handler.on_session_close(session)

    def _encode(self, item: Item, output: Any) -> Outcome:
        try:
            value = self._handler.encode(output, item.request)
            response = sound(codecs.encode(value, item.request.accept, self._default_accept))
            if item.session is not None:
                self._check_session(item.session)
            return item, response
        except BaseException as exc:
            return item, predict_error(item, exc)


def check_size(session: Session, limit: int) -> None:
    """Raises SessionTooLarge, which ends the session: what is too much in it only the handler could tell."""
    size = size_of(session.state, limit) if limit else 0
    if size > limit:
        session.close()
        raise SessionTooLarge(f"the state of the session has more than {limit} bytes; the session is closed")


def sound(response: Response) -> Response:
    """A response that can be sent. Raises HandlerError for what a handler put in wrongly."""
    if not 200 <= response.status <= 599:
        raise HandlerError(f"the handler's response has status {response.status}; allowed: 200 to 599")
    if not isinstance(response.content_type, str) or not isinstance(response.custom_attributes, str | None):
        raise HandlerError("content type and custom attributes of a response are text")
    if isinstance(response.body, memoryview):
        return replace(response, body=response.body.tobytes())
    if not isinstance(response.body, bytes | bytearray):
        raise HandlerError(f"the body of a response is bytes, not {type(response.body).__name__}")
    return response


def expired(item: Item) -> Outcome:
    return item, DeadlineExceeded("the deadline passed while the request was waiting")


def describe(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"[:300]
    except Exception:  # its __str__ is user code
        return type(exc).__name__


def decode_error(item: Item, exc: BaseException) -> ServingError:
    """What the client sees when ``decode`` fails: its own mistake, unless the exception says otherwise."""
    error = chosen_error(exc)
    if error is None:
        request = item.request
        log.info(
            "a request could not be decoded",
            request_id=request.request_id,
            trace_id=request.trace_id,
            error=describe(exc),
        )
        return BadRequest(f"the request could not be decoded: {describe(exc)}")
    if error.status >= 500:
        report(item, exc)
    return error


def predict_error(item: Item, exc: BaseException) -> ServingError:
    """What the client sees when anything after ``decode`` fails. The traceback goes to the log only."""
    error = chosen_error(exc)
    if error is None or error.status >= 500:
        report(item, exc)
    return error or HandlerError(f"the model failed with {type(exc).__name__}; the log has more under this request id")


def chosen_error(exc: BaseException) -> ServingError | None:
    """The error that the exception itself stands for, by its type or its ``status_code``."""
    if isinstance(exc, ServingError):
        return exc
    if is_out_of_memory(exc):
        return OutOfMemory("there was not enough memory to answer this request")
    status = getattr(exc, "status_code", None)
    if isinstance(status, int) and 400 <= status <= 599:
        return CodedError(status, "handler_error", str(exc))
    return None


def is_out_of_memory(exc: BaseException) -> bool:
    """Memory of the host or of the GPU was short, or the disk's, which is often memory."""
    import torch

    if isinstance(exc, OSError):
        return exc.errno in (errno.ENOMEM, errno.ENOSPC)
    return isinstance(exc, MemoryError | torch.OutOfMemoryError)


def report(item: Item, exc: BaseException) -> None:
    request = item.request
    log.error("a request failed in the handler", exc=exc, request_id=request.request_id, trace_id=request.trace_id)
