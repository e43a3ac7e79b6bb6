"""TritonHandler: a Handler for a model of Triton's Python backend, ``<version>/model.py``.

Requests are not concatenated: ``execute`` gets a list of them, with at most ``max_batch_size`` rows in all. Messages
are the same on ``/invocations`` and on the paths of the Open Inference Protocol.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from pathlib import Path

import triton_python_backend_utils as pb_utils
from serving.adapters.triton import information
from serving.adapters.triton.calls import Call, Calls
from serving.adapters.triton.decoupled import Executor
from serving.adapters.triton.decoupled_stream import DecoupledStream, wants_events
from serving.adapters.triton.policy import drop_late, patience_of, policy_of
from serving.adapters.triton.reporter import Reporter
from serving.adapters.triton.response_encoder import EVENTS, JSON_LINES, ResponseEncoder
from serving.adapters.triton.runner import Runner
from serving.adapters.triton.script import open_script, write_log
from serving.adapters.triton.sequences import Sequences
from serving.adapters.triton.statistics import Statistics
from serving.adapters.triton.warmup import warm
from serving.handler import BatchPolicy, Handler
from serving.request import Request, Response, StreamingResponse
from triton_python_backend_utils import server

BLS_TIME = 60.0  # seconds for calls of other models without a request's bound: while loading, and if decoupled
RESERVE = 0.5  # seconds, at most, kept for the model's own work after such a call


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
        self._script = open_script(model_dir, version)
        config = self._config = self._script.config
        self.policy = policy_of(config)
        self.prioritizes = config.dynamic_batching is not None and config.dynamic_batching.priority_levels > 0
        self._calls = Calls(config, version)
        self._encoder = ResponseEncoder(config, version)
        batching = config.sequence_batching
        self._sequences = None if batching is None else Sequences(batching, config.max_batch_size > 0)
        self._model_dir = model_dir
        self._runner = Runner(self._script, self._statistics, batching is not None)
        self._script.initialize(device)
        if config.is_decoupled:
            self._executor = Executor(self._script, self._runner.batches, self._statistics)
        self._reporter = None if self.home is None else Reporter(config.name)

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
        warm(self._config, self._model_dir, self._runner, self._executor)

    def decode(self, request: Request) -> Call | Response:
        verb = self._calls.check_path(request)
        if verb != "infer":
            return information.respond(verb, self._script, self._calls.version, self._statistics)
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
            self._until = max(call.until for call in live)
            try:
                self._runner.run_all(live)
            finally:
                self._until = 0.0
                if self._reporter is not None:
                    self._reporter.touch()
        return batch

    def split(self, outputs: Sequence[Call | Response], n: int) -> Sequence[Call | Response]:
        return outputs

    def encode(self, output: Call | Response, request: Request) -> Response | StreamingResponse:
        if isinstance(output, Response):
            return output
        if output.failure is None and self._executor is not None and output.response is None:
            stream = DecoupledStream(output, self._encoder, self._executor, request, self._statistics)
            self._executor.submit(output)
            return StreamingResponse(stream.stream(), EVENTS if wants_events(request) else JSON_LINES)
        began = time.monotonic_ns()
        try:
            response = self._respond(output)
        except BaseException:
            self._statistics.failed(output.arrival)
            raise
        self._statistics.succeeded(output, time.monotonic_ns() - began)
        return response

    def _respond(self, output: Call) -> Response:
        if output.failure is not None:
            raise output.failure
        assert output.response is not None
        return self._encoder.encode(output, output.response)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
        self._script.finalize()
        if self._reporter is not None:
            self._reporter.close()
