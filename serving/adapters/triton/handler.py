"""TritonHandler: a Handler for a model of Triton's Python backend, ``<version>/model.py``.

Requests are not concatenated: ``execute`` gets a list of them, with at most ``max_batch_size`` rows in all. Messages
are the same on ``/invocations`` and on the paths of the Open Inference Protocol.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from serving.adapters.triton import information
from serving.adapters.triton.answers import EVENTS, JSON_LINES, Answers
from serving.adapters.triton.calls import Call, Calls
from serving.adapters.triton.config import TritonConfig, TritonConfigError, read_config
from serving.adapters.triton.decoupled import Executor
from serving.adapters.triton.folder import check, notes
from serving.adapters.triton.pieces import Pieces, Warming, wants_events
from serving.adapters.triton.reporter import Reporter
from serving.adapters.triton.script import Script
from serving.adapters.triton.sequences import Sequences
from serving.adapters.triton.statistics import Statistics
from serving.adapters.triton.warmup import warm_calls
from serving.errors import DeadlineExceeded, HandlerError, ModelError, ServingError, Unavailable
from serving.handler import MAX_BATCH, BatchPolicy, Handler
from serving.request import Request, Response, StreamingResponse
from serving.system import log
from triton_python_backend_utils import server

BLS_TIME = 60.0  # seconds for calls of other models without a request's bound: while loading, and if decoupled
RESERVE = 0.5  # seconds, at most, kept for the model's own work after such a call


def write_log(level: int, message: str) -> None:
    """Log a message of a model's ``Logger``."""
    log.emit(level, message)


class TritonHandler(Handler):
    records = "one"
    policy = BatchPolicy(max_size=1)
    open_inference = True

    def load(self, model_dir: Path, device: str, *, version: str) -> None:
        """Load the script in folder ``version``. Raises ModelError for a model that can never work."""
        self.device = device
        self._until = 0.0
        self._statistics = Statistics()
        self._executor: Executor | None = None
        pb_utils.log.write = write_log
        self._connect()
        try:
            config, warnings = read_config(model_dir)
            self._script = Script(model_dir, version, config)
            config = self._config = self._script.config
            check(model_dir, config)
        except TritonConfigError as exc:
            raise ModelError(str(exc)) from exc
        for warning in [*warnings, *notes(config)]:
            log.warning(warning, model=config.name)
        self.policy = policy_of(config)
        self.prioritizes = config.dynamic_batching is not None and config.dynamic_batching.priority_levels > 0
        self._calls = Calls(config, version)
        self._answers = Answers(config, version)
        batching = config.sequence_batching
        self._sequences = None if batching is None else Sequences(batching, config.max_batch_size > 0)
        self._model_dir = model_dir
        self._script.initialize(device)
        if config.is_decoupled:
            self._executor = Executor(self._script, self._batches, self._statistics)
        self._reporter = None if self.home is None else Reporter(self.home.metrics, config.name)

    def _connect(self) -> None:
        if self.home is not None:
            server.connect(server.Server(self.home.host, self.home.port, self._remaining))

    def _remaining(self) -> float:
        """Return the seconds for a call of another model: what running requests have left, less time for their answers.

        A decoupled request may take longer than that; only the wait for its next response is bounded.
        """
        if not self._until or self._executor is not None:
            return BLS_TIME
        left = self._until - time.monotonic()
        return max(0.0, left - min(RESERVE, left / 10))

    def warmup(self) -> None:
        for warm in warm_calls(self._config, self._model_dir):
            self._warm(warm)

    def _warm(self, calls: list[Call]) -> None:
        """Run one batch of warm-up calls. Raises ModelError where one fails."""
        if self._executor is None:
            self._run(calls)
        for call in calls:
            if self._executor is not None:
                Warming(call)
                self._executor.submit(call)
                if not call.sent.wait(max(0.0, call.until - time.monotonic())):
                    raise ModelError("model_warmup failed: the model sent no last response in time")
            reason = call.failure or (call.response and call.response.error())
            if reason:
                raise ModelError(f"model_warmup failed: {reason}")

    def decode(self, request: Request) -> Call | Response:
        verb = self._calls.check_path(request)
        if verb != "infer":
            return information.answer(verb, self._script, self._calls.version, self._statistics)
        call = self._read(request)
        if self._sequences is not None:
            self._sequences.enter(call, request.session)
        call.patience = patience_of(self._config, call)
        return call

    def _read(self, request: Request) -> Call:
        began = time.monotonic_ns()
        try:
            call = self._calls.read(request)
        except BaseException:
            self._statistics.failed(began / 1e9)
            raise
        call.read_ns = time.monotonic_ns() - began
        return call

    def bucket(self, sample: Call | Response) -> Hashable:
        return sample.key if isinstance(sample, Call) else Response

    def priority(self, sample: Call | Response) -> int:
        """Return the priority; an unknown one becomes the model's default, as in Triton."""
        batching = self._config.dynamic_batching
        if batching is None or not isinstance(sample, Call):
            return 0
        known = 0 < sample.priority <= batching.priority_levels
        return sample.priority if known else batching.default_priority_level

    def collate(self, samples: Sequence[Call | Response]) -> Sequence[Call | Response]:
        return samples

    def predict(self, batch: Sequence[Call | Response]) -> Sequence[Call | Response]:
        calls = [call for call in batch if isinstance(call, Call)]
        drop_late(calls)
        live = [call for call in calls if not call.is_settled]
        if live and self._executor is None:
            self._execute(live)
        return batch

    def _execute(self, calls: list[Call]) -> None:
        self._until = max(call.until for call in calls)
        try:
            for group in self._batches(calls):
                self._run(group)
        except BaseException:
            if len(calls) == 1:  # larger batches are run again in halves
                self._statistics.failed(calls[0].arrival)
            raise
        finally:
            self._until = 0.0
            if self._reporter is not None:
                self._reporter.touch()

    def split(self, outputs: Sequence[Call | Response], n: int) -> Sequence[Call | Response]:
        return outputs

    def encode(self, output: Call | Response, request: Request) -> Response | StreamingResponse:
        if isinstance(output, Response):
            return output
        if output.failure is None and self._executor is not None and output.response is None:
            pieces = Pieces(output, self._answers, self._executor, request, self._statistics)
            self._executor.submit(output)
            return StreamingResponse(pieces.stream(), EVENTS if wants_events(request) else JSON_LINES)
        began = time.monotonic_ns()
        try:
            answer = self._whole(output)
        except BaseException:
            self._statistics.failed(output.arrival)
            raise
        self._statistics.answered(output, time.monotonic_ns() - began)
        return answer

    def _whole(self, output: Call) -> Response:
        if output.failure is not None:
            raise output.failure
        assert output.response is not None
        return self._answers.whole(output, output.response)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
        self._script.finalize()
        if self._reporter is not None:
            self._reporter.close()

    def _batches(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """Yield the calls in order, split where a batch would be too large or contain a sequence twice."""
        limit = max(1, self._config.max_batch_size)
        group: list[Call] = []
        for call in calls:
            rows = sum(one.rows for one in group) + call.rows
            twice = self._sequences is not None and any(one.correlation == call.correlation for one in group)
            if group and (rows > limit or twice):
                yield group
                group = []
            group.append(call)
        if group:
            yield group

    def _run(self, calls: list[Call]) -> None:
        """Give each call its response. Raises what ``execute`` raises, so that the engine retries.

        Not for sequences: a retry of the same requests would change their state in the model.
        """
        try:
            while calls:
                with self._statistics.running(calls):
                    given = self._script.execute([call.renew() for call in calls])
                calls = settle(calls, given)
        except BaseException as exc:
            if self._sequences is None:
                if isinstance(exc, pb_utils.TritonModelException):
                    raise error_of(exc) from exc
                raise
            log.error("execute failed", exc=exc, model=self._config.name)
            for call in calls:
                if not call.is_settled:
                    call.failure = error_of(exc)


def error_of(exc: BaseException) -> ServingError:
    """Return the client's error; the text of a TritonModelException is meant for clients."""
    if isinstance(exc, ServingError):
        return exc
    told = isinstance(exc, pb_utils.TritonModelException)
    return HandlerError(str(exc) if told else f"the model failed with {type(exc).__name__}")


def settle(calls: list[Call], given: Any) -> list[Call]:
    """Give each call its response and return those to execute again. Raises HandlerError."""
    responses = [None] * len(calls) if given is None else given
    if not isinstance(responses, list | tuple) or len(responses) != len(calls):
        count = len(responses) if isinstance(responses, list | tuple) else type(given).__name__
        raise HandlerError(f"execute gave {count} responses for {len(calls)} requests")
    again = []
    for call, response in zip(calls, responses, strict=True):
        if response is None and call.is_rescheduled:
            again += [] if gone(call) else [call]
        elif response is None:
            wait_for_sent(call)
        elif isinstance(response, pb_utils.InferenceResponse):
            call.response = response
        else:
            raise HandlerError(f"execute gave {type(response).__name__}; allowed: InferenceResponse")
    return again


def gone(call: Call) -> bool:
    if not call.client.gone and time.monotonic() < call.until:
        return False
    call.failure = DeadlineExceeded("the deadline passed while the model worked on the request")
    return True


def wait_for_sent(call: Call) -> None:
    """Wait for a response that the model sends later, as long as its client waits."""
    if not call.asked:
        raise HandlerError("execute gave None for a request and sent no response")
    if not call.sent.wait(max(0.0, call.until - time.monotonic()) if call.until != float("inf") else None):
        call.failure = DeadlineExceeded("the model sent no response in time")


def policy_of(config: TritonConfig) -> BatchPolicy:
    """Return the batch policy. Without a batching scheduler each request runs alone, as in Triton."""
    batching = config.dynamic_batching
    size = config.max_batch_size if batching is not None or config.sequence_batching is not None else 1
    delay = queue = 0
    if batching is not None:
        delay = batching.max_queue_delay_microseconds
        queue = batching.default_queue_policy.max_queue_size if batching.default_queue_policy is not None else 0
        if delay and batching.preferred_batch_size:
            size = max(batching.preferred_batch_size)  # a batch of this size is not delayed any longer
    if config.sequence_batching is not None:
        strategy = config.sequence_batching.oldest or config.sequence_batching.direct
        size, delay = config.max_batch_size, 0 if strategy is None else strategy.max_queue_delay_microseconds
    try:
        return BatchPolicy(min(MAX_BATCH, max(1, size)), delay / 1000, queue or None)
    except ValueError as exc:
        raise ModelError(f"the model's dynamic_batching: {exc}") from exc


def patience_of(config: TritonConfig, call: Call) -> float:
    """Return the seconds that the queue policy lets the request wait; 0 for no limit."""
    batching = config.dynamic_batching
    policy = None if batching is None else batching.default_queue_policy
    if policy is None or policy.timeout_action == "DELAY":
        return 0.0
    limit = policy.default_timeout_microseconds
    if policy.allow_timeout_override and call.timeout:
        limit = min(limit, call.timeout) if limit else call.timeout
    return limit / 1e6


def drop_late(calls: Sequence[Call]) -> None:
    now = time.monotonic()
    for call in calls:
        if call.patience and now - call.arrival > call.patience:
            call.failure = Unavailable("the request waited longer than the model's queue policy allows")
