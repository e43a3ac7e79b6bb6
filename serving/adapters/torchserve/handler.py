"""TorchServeHandler: a Handler for a TorchServe model, an archive or its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from serving.adapters.context import Context, RequestProcessor, gpu_of
from serving.adapters.torchserve import names
from serving.adapters.torchserve.entry import find_entry
from serving.adapters.torchserve.envelopes import envelope_of
from serving.adapters.torchserve.inputs import Call, call_of
from serving.adapters.torchserve.manifest import Manifest, read_manifest
from serving.adapters.torchserve.metrics import Metrics
from serving.adapters.torchserve.outputs import attributes_of, content_type_of, failed, response_of
from serving.adapters.torchserve.settings import read_yaml
from serving.adapters.torchserve.streaming import Abandoned, IntermediateChunks, Run, UserThread
from serving.errors import CodedError, ModelError, ServingError
from serving.handler import BatchPolicy, Handler
from serving.request import Request, Response, StreamingResponse
from serving.system.devicefaults import is_out_of_memory

Result = tuple[Any, RequestProcessor]


class TorchServeHandler(Handler):
    """The handler of one archive. Batches have its ``batchSize`` of ``model-config.yaml``, 1 without it."""

    records = "one"
    policy = BatchPolicy(max_size=1)
    exclusive_streams = True  # such handlers keep state of their current batch

    def load(
        self,
        model_dir: Path,
        device: str,
        *,
        envelope: str | None = None,
        decode_input_request: bool = True,
        limit_max_image_pixels: bool = True,
        allow_pickle: bool = False,
    ) -> None:
        """Load the archive. Raises ModelError for one that can never work.

        ``envelope`` is body, json, kserve or kservev2; else it is the manifest's. ``decode_input_request`` gives JSON
        as objects and text as str, else the handler decodes the bytes itself. ``limit_max_image_pixels`` is Pillow's
        guard against decompression bombs. ``allow_pickle`` lets built-in handlers load files that can run any code.
        """
        self.device = device
        self._decodes = decode_input_request
        manifest = read_manifest(model_dir)
        names.install()
        entry = find_entry(manifest)
        self._context = self._context_of(manifest, limit_max_image_pixels)
        self._context.allow_pickle = allow_pickle
        self._entry = entry.handle
        wrap = envelope or manifest.model.envelope
        if wrap is not None:
            self._entry = envelope_of(wrap)(entry.handle).handle
        self._thread = UserThread(self._prepare()) if names.may_stream() else None
        self._run: Run | None = None
        self._on_user_thread(lambda: entry.initialize(self._context))

    def _context_of(self, manifest: Manifest, limit_max_image_pixels: bool) -> Context:
        return Context(
            manifest.model.model_name,
            str(manifest.root),
            manifest.raw,
            self.policy.max_size,
            gpu_of(self.device),
            names.VERSION,
            limit_max_image_pixels,
            Metrics(manifest.model.model_name),
            read_yaml(manifest),
        )

    def _prepare(self) -> Callable[[], None]:
        """Return a function that applies torch's per-thread settings on the second thread."""
        import torch

        threads, device = torch.get_num_threads(), self.device

        def prepare() -> None:
            torch.set_num_threads(threads)
            if device.startswith("cuda"):
                torch.cuda.set_device(device)

        return prepare

    def _on_user_thread(self, work: Callable[[], Any]) -> None:
        def call() -> list[Any]:
            work()
            return []

        run = Run(call, {}, self._thread)
        run.start()
        if run.error is not None:
            raise run.error

    def decode(self, request: Request) -> Call:
        return call_of(request, self._decodes)

    def bucket(self, sample: Call) -> tuple[str, ...]:
        return sample.wishes  # a handler asks the first request for the whole batch

    def predict(self, batch: Sequence[Call]) -> list[Result]:
        import torch

        with torch.inference_mode(False):  # the handler itself turns gradients off where it can
            run, processors = self._call(batch)
        if run.error is not None and not any(run.queues):
            raise run.error
        values = [IntermediateChunks(run, index) for index in range(len(batch))] if run.has_chunks else run.results
        return list(zip(values, processors, strict=True))

    def _call(self, batch: Sequence[Call]) -> tuple[Run, list[RequestProcessor]]:
        if self._run is not None:
            self._run.finish()  # a handler works on one batch at a time and keeps state of it
        context = self._context
        data = [call.data() for call in batch]
        context.request_processor = processors = [call.processor() for call in batch]
        context.request_ids = {index: call.request.request_id for index, call in enumerate(batch)}
        context.metrics.set_request_ids(context.request_ids)
        self._run = run = Run(lambda: self._results(data), context.request_ids, self._thread)
        context.cl_socket = run
        run.start()
        if run.done:
            self._run = None  # only its readers still need it
        return run, processors

    def _results(self, data: list[dict[str, Any]]) -> list[Any]:
        """Return the handler's results. Raises an error with a status for each way in which a handler can fail."""
        count = len(data)
        try:
            results = self._entry(data, self._context)
        except Exception as exc:
            error = client_error(exc)
            if error is exc:
                raise
            raise error from exc
        if not isinstance(results, list):
            raise failed(f"Invalid model predict output: {type(results).__name__}, not a list", "invalid_output")
        if len(results) != count:
            text = f"number of batch response mismatched: {len(results)} for {count} requests"
            raise failed(text, "invalid_output")
        return results

    def encode(self, output: Result, request: Request) -> Response | StreamingResponse:
        value, processor = output
        if not isinstance(value, IntermediateChunks):
            return response_of(value, processor, request)
        kind = content_type_of(processor, value.kind, request)
        return StreamingResponse(value, kind, processor.get_response_status_code(), attributes_of(processor, request))


def client_error(exc: Exception) -> Exception:
    """Return the error for the handler's exception. TorchServe's clients expect 503 for a failed prediction."""
    chosen = names.prediction_exception()
    if chosen is not None and isinstance(exc, chosen):
        code = getattr(exc, "error_code", 500)
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500
        return CodedError(status, "prediction_exception", str(getattr(exc, "message", exc)))
    if isinstance(exc, ServingError | ModelError | Abandoned) or is_out_of_memory(exc):
        return exc
    return failed("Prediction failed; the log has more under this request id")
