"""Engine: the one thread that runs user code, and the rule for each way in which user code can fail.

Every call of user code is announced on the scoreboard with the latest deadline of the requests it works on, so that the
supervisor can end it; the requests stay listed as running until their answers are handed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import isasyncgen, isgenerator
from typing import Any

from serving import codecs, log
from serving.config import Config
from serving.errors import HandlerError, ServingError, SessionTooLarge
from serving.handler import MAX_BATCH, Handler
from serving.request import BODILESS, Request, Response, StreamingResponse
from serving.session import Session, size_of
from serving.worker.batcher import Batcher, Item
from serving.worker.conversations import Partner
from serving.worker.failures import decode_error, describe, expired, predict_error
from serving.worker.records import Records
from serving.worker.stamps import Stamps
from serving.worker.streams import Part, Streams, streaming

DROP_TIME = 5.0  # seconds that the destructors of a dropped request's sample may take

Outcome = tuple[Item, Response | Part]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say of answers. Sizes are in bytes with 0 for no limit, times in seconds: those of Streams.

    ``bad_record`` stands for a bad record in a body of many; without one such a body fails as a whole.
    """

    default_accept: str = codecs.JSON
    session_max_bytes: int = 0
    stream_idle: float = 60.0
    bad_record: str | None = None

    @classmethod
    def of(cls, config: Config) -> Rules:
        return cls(config.default_accept, config.session_max_bytes, config.stream_idle_timeout, config.bad_record)


class Engine:
    """``deliver`` gets the outcomes of each batch, on the engine's thread; each request has exactly one outcome, or an
    answer in pieces that ends with one.
    """

    def __init__(
        self,
        handler: Handler,
        batcher: Batcher,
        stamps: Stamps,
        deliver: Callable[[list[Outcome]], None],
        rules: Rules = Rules(),
    ) -> None:
        self._rules = rules
        self._handler = handler
        self._batcher = batcher
        self._stamps = stamps
        self._deliver = deliver
        self._records = None if rules.bad_record is None else Records(rules.bad_record, self._answer_alone)
        self.streams = Streams(batcher, stamps, self._emit, rules.stream_idle)

    def run(self) -> None:
        """Work until the batcher is closed and empty, and every stream has ended."""
        while self._wait():
            self.step()
        self.streams.close()

    def _wait(self) -> bool:
        if self.streams.is_async:
            self.streams.wait()
            return True
        return self.streams.can_step or self._batcher.wait(pending=len(self.streams) > 0)

    def step(self) -> None:
        """Decode what has arrived, until a batch is full; run the batch that is due and one step of a stream."""
        self._step_batch()
        self.streams.step()

    def _step_batch(self) -> None:
        while (item := self._batcher.next_arrival()) is not None:
            self._decode(item)
        if self._handler.exclusive_streams and self.streams.can_step:
            return
        taken = self._batcher.take()
        self._drop([*taken.expired, *taken.cancelled])
        self._settle_cancelled(taken.cancelled)
        outcomes: list[Outcome] = [expired(item) for item in taken.expired]
        if taken.batch:
            outcomes += self._run(taken.batch)
        if outcomes:
            self._settle(outcomes)

    def _settle_cancelled(self, items: list[Item]) -> None:
        """Nobody waits for these, but for the next call of their session."""
        outcomes: list[Outcome] = [expired(item) for item in items if item.session is not None]
        if outcomes:
            self._settle(outcomes)

    def _start(self, ids: list[int], until: float) -> None:
        risk = self.streams.at_risk()
        self._stamps.start([*ids, *risk][:MAX_BATCH] if risk else ids, until)

    def _drop(self, items: list[Item]) -> None:
        """Let go of samples under the eyes of the supervisor: what user code made, user code may destroy."""
        if any(item.sample is not None for item in items):
            self._start([], time.monotonic() + DROP_TIME)
            for item in items:
                item.sample = None
            self._stamps.finish(0)

    def _settle(self, outcomes: list[Outcome]) -> None:
        # The answers are handed over before the scoreboard forgets the requests: if the worker dies in between they
        # are tried again, never lost.
        self._deliver(outcomes)
        self._stamps.finish(len(outcomes))

    def _emit(self, item: Item, part: Part) -> None:
        self._deliver([(item, part)])

    def _decode(self, item: Item) -> None:
        if isinstance(item.live, Partner):
            self.streams.start(item, item.live.converse(self._handler, item, self._emit))
            return
        if item.cancelled:
            self._settle_cancelled([item])
            return
        if item.request.deadline.expired():
            self._settle([expired(item)])
            return
        self._start([item.id], item.request.deadline.at)
        if item.session is not None and not self._begin(item, item.session):
            return
        try:
            item.sample = self._handler.decode(item.request)
        except BaseException as exc:
            self._settle([self._failed(item, decode_error(item, exc))])
            return
        try:
            self._batcher.admit(item, self._handler.bucket(item.sample))
        except BaseException as exc:
            self._settle([self._failed(item, predict_error(item, exc))])
            return
        self._stamps.finish(0)

    def _failed(self, item: Item, error: ServingError) -> Outcome:
        """What a request that failed by itself is answered; of many records in it some may be good."""
        if self._records is None or item.session is not None:
            return item, error
        return item, self._records.salvage(item.request, error)

    def _answer_alone(self, request: Request) -> Response:
        """Raises a ServingError."""
        item = Item(0, request)
        try:
            sample = self._handler.decode(request)
        except BaseException as exc:
            raise decode_error(item, exc) from exc
        try:
            [output] = self._predict([sample])
            return self._response(self._handler.encode(output, request), request)
        except BaseException as exc:
            raise predict_error(item, exc) from exc

    def _response(self, value: Any, request: Request) -> Response:
        return sound(codecs.encode(value, request.accept, self._rules.default_accept))

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
        outcomes: list[Outcome] = [expired(item) for item in batch if item.request.deadline.at <= now]
        if not live:
            return outcomes
        self._start([item.id for item in live], max(item.request.deadline.at for item in live))
        try:
            outputs = self._predict([item.sample for item in live])
        except BaseException as exc:
            if len(live) == 1:
                failed = self._failed(live[0], predict_error(live[0], exc))
                live[0].sample = None
                return [*outcomes, failed]
            log.warning("a batch failed; running its members apart", size=len(live), error=describe(exc))
            middle = len(live) // 2
            return [*outcomes, *self._run(live[:middle]), *self._run(live[middle:])]
        encoded = [self._encode(item, output) for item, output in zip(live, outputs, strict=True)]
        outcomes += [outcome for outcome in encoded if outcome is not None]
        for item in live:
            item.sample = None  # while the supervisor still watches, and on this thread
        return outcomes

    def _predict(self, samples: list[Any]) -> Sequence[Any]:
        import torch

        handler = self._handler
        with torch.inference_mode():
            output = handler.predict(handler.collate(samples))
            # A generator is the answer to one request, in pieces.
            whole = isgenerator(output) or isasyncgen(output)
            outputs: Sequence[Any] = [output] if whole else handler.split(output, len(samples))
        if len(outputs) != len(samples):
            raise HandlerError(f"the handler gave {len(outputs)} outputs for {len(samples)} requests")
        return outputs

    def _check_session(self, session: Session) -> None:
        """After a call: is its state too large, has the handler closed it? Raises SessionTooLarge."""
        try:
            check_size(session, self._rules.session_max_bytes)
        finally:
            if session.is_closed:
                self._handler.on_session_close(session)

    def _encode(self, item: Item, output: Any) -> Outcome | None:
        """The answer, or None where it comes in pieces from now on."""
        try:
            value = self._handler.encode(output, item.request)
            pieces = streaming(value)
            if pieces is not None:
                self.streams.begin(item, sound_stream(pieces), lambda: self._end_call(item))
                return None
            response = self._response(value, item.request)
            self._end_call(item)
            return item, response
        except BaseException as exc:
            return self._failed(item, predict_error(item, exc))

    def _end_call(self, item: Item) -> None:
        if item.session is not None:
            self._check_session(item.session)


def check_size(session: Session, limit: int) -> None:
    """Raises SessionTooLarge, which ends the session: what is too much in it only the handler could tell."""
    size = size_of(session.state, limit) if limit else 0
    if size > limit:
        session.close()
        raise SessionTooLarge(f"the state of the session has more than {limit} bytes; the session is closed")


def sound(response: Response) -> Response:
    """A response that can be sent. Raises HandlerError for what a handler put in wrongly."""
    check_head(response.status, response.content_type, response.custom_attributes)
    if isinstance(response.body, memoryview):
        return replace(response, body=response.body.tobytes())
    if not isinstance(response.body, bytes | bytearray):
        raise HandlerError(f"the body of a response is bytes, not {type(response.body).__name__}")
    return response


def sound_stream(response: StreamingResponse) -> StreamingResponse:
    """An answer in pieces that can be sent. Raises HandlerError."""
    check_head(response.status, response.content_type or "", response.custom_attributes)
    if response.status in BODILESS:
        raise HandlerError(f"an answer with status {response.status} has no body, and so no pieces")
    pieces: Any = response.pieces
    if hasattr(pieces, "__aiter__"):
        return replace(response, pieces=aiter(pieces))
    if hasattr(pieces, "__iter__") and not isinstance(pieces, str | bytes):
        return replace(response, pieces=iter(pieces))
    raise HandlerError(f"the pieces of an answer are an iterator, not {type(pieces).__name__}")


def check_head(status: int, content_type: str, custom_attributes: str | None) -> None:
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise HandlerError(f"the handler's response has status {status!r}; allowed: 200 to 599")
    if not isinstance(content_type, str) or not isinstance(custom_attributes, str | None):
        raise HandlerError("content type and custom attributes of a response are text")
