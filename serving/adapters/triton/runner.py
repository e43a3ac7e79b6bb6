"""Runner: a model's ``execute``, and what it gives for each request."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from serving.adapters.triton.calls import Call
from serving.adapters.triton.script import Script
from serving.adapters.triton.statistics import Statistics
from serving.errors import DeadlineExceeded, HandlerError, ServingError
from serving.system import log


class Runner:
    """Runs calls on ``script``. ``in_sequences``: they belong to sequences, whose state the model keeps."""

    def __init__(self, script: Script, statistics: Statistics, in_sequences: bool) -> None:
        self._script = script
        self._statistics = statistics
        self._in_sequences = in_sequences

    def run_all(self, calls: list[Call]) -> None:
        """Give each call its response, in as many batches as the model wants. Raises what ``execute`` raises."""
        try:
            for group in self.batches(calls):
                self.run(group)
        except BaseException:
            if len(calls) == 1:  # larger batches are run again in halves
                self._statistics.failed(calls[0].arrival)
            raise

    def batches(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """Yield the calls in order, split where a batch would be too large or contain a sequence twice."""
        limit = max(1, self._script.config.max_batch_size)
        group: list[Call] = []
        for call in calls:
            rows = sum(one.rows for one in group) + call.rows
            twice = self._in_sequences and any(one.correlation == call.correlation for one in group)
            if group and (rows > limit or twice):
                yield group
                group = []
            group.append(call)
        if group:
            yield group

    def run(self, calls: list[Call]) -> None:
        """Give each call its response. Raises what ``execute`` raises, so that the engine retries.

        Not for sequences: a retry of the same requests would change their state in the model.
        """
        try:
            while calls:
                with self._statistics.running(calls):
                    given = self._script.execute([call.renew() for call in calls])
                calls = settle(calls, given)
        except BaseException as exc:
            if not self._in_sequences:
                if isinstance(exc, pb_utils.TritonModelException):
                    raise error_of(exc) from exc
                raise
            log.error("execute failed", exc=exc, model=self._script.config.name)
            for call in calls:
                if not call.is_settled:
                    call.failure = error_of(exc)


def error_of(exc: BaseException) -> ServingError:
    """Return the client's error; the text of a TritonModelException is meant for clients."""
    if isinstance(exc, ServingError):
        return exc
    is_for_clients = isinstance(exc, pb_utils.TritonModelException)
    return HandlerError(str(exc) if is_for_clients else f"the model failed with {type(exc).__name__}")


def settle(calls: list[Call], given: Any) -> list[Call]:
    """Give each call its response and return those to execute again. Raises HandlerError."""
    responses = [None] * len(calls) if given is None else given
    if not isinstance(responses, list | tuple) or len(responses) != len(calls):
        count = len(responses) if isinstance(responses, list | tuple) else type(given).__name__
        raise HandlerError(f"execute gave {count} responses for {len(calls)} requests")
    again = []
    for call, response in zip(calls, responses, strict=True):
        if response is None and call.is_rescheduled:
            again += [] if give_up_if_late(call) else [call]
        elif response is None:
            wait_for_sent(call)
        elif isinstance(response, pb_utils.InferenceResponse):
            call.response = response
        else:
            raise HandlerError(f"execute gave {type(response).__name__}; allowed: InferenceResponse")
    return again


def give_up_if_late(call: Call) -> bool:
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
