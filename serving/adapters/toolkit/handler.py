"""ToolkitHandler: a Handler for a SageMaker toolkit script, ``code/inference.py``.

The script may define ``pre_model_fn(model_dir)``, ``model_fn(model_dir)``, ``model_warmup_fn(model_dir, model)`` and
either ``transform_fn(model, input_data, content_type, accept)`` or any of ``input_fn(input_data, content_type)``,
``predict_fn(data, model)`` and ``output_fn(prediction, accept)``. Each may take one more parameter, the context, which
is TorchServe's. ``batch_predict_fn(list, model)``, which no toolkit has, gets the data of many requests and returns as
many predictions.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import isasyncgen, isgenerator
from pathlib import Path
from types import ModuleType
from typing import Any

from serving import codecs
from serving.adapters.context import CONTENT_TYPE, CUSTOM_ATTRIBUTES, Context, RequestProcessor, gpu_of, headers_of
from serving.adapters.toolkit.signatures import Function, adapted, misspelled
from serving.adapters.torchserve.metrics import Metrics
from serving.adapters.torchserve.outputs import attributes_of
from serving.errors import (
    CodedError,
    HandlerError,
    ModelError,
    NotAcceptable,
    ServingError,
    UnsupportedMediaType,
)
from serving.handler import ONE, ROWS, BatchPolicy, Handler
from serving.http.accept import parameters, wanted
from serving.request import Body, Request, Response, StreamingResponse, media_type
from serving.system import log
from serving.usercode import origin, surroundings

BATCH = 32  # requests in one call of batch_predict_fn, unless a setting says otherwise
ARGUMENTS = {
    "pre_model_fn": 1,
    "model_fn": 1,
    "model_warmup_fn": 2,
    "input_fn": 2,
    "predict_fn": 2,
    "batch_predict_fn": 2,
    "output_fn": 2,
    "transform_fn": 4,
}
TEXT_TYPES = (codecs.JSON, codecs.CSV)
ARRAYS = (codecs.NPY, codecs.NPZ)


@dataclass(slots=True)
class Call:
    """One request on its way through the script's functions. ``context`` knows this request only."""

    data: Any
    context: Context
    request: Request
    processor: RequestProcessor
    accept: str

    @property
    def content_type(self) -> str | None:
        """The content type that the script has set."""
        return self.processor.get_response_header(CONTENT_TYPE)

    @property
    def status(self) -> int:
        status: int | None = self.processor.get_response_status_code()
        return 200 if status is None else status

    @property
    def attributes(self) -> str | None:
        return attributes_of(self.processor, self.request)


class ToolkitHandler(Handler):
    """The handler of one script. Each request runs alone by default, as such scripts expect.

    With ``stacks`` and a larger ``max_size`` the tensors of ``input_fn`` are stacked, and ``predict_fn`` gets the
    batch.
    """

    policy = BatchPolicy(max_size=1)

    def load(
        self,
        model_dir: Path,
        device: str,
        *,
        script: str,
        default_accept: str = codecs.JSON,
        sized: bool = False,
        stacks: bool = True,
    ) -> None:
        """Load the script at path ``script``; ``sized``: the batch size comes from a setting.

        Raises ModelError for a script that can never work.
        """
        from serving.adapters.toolkit import packages_of_sagemaker
        from serving.adapters.toolkit.defaults import defaults_of
        from serving.adapters.toolkit.sagemaker_inference import default_model_fn

        packages_of_sagemaker.install(model_dir, Path(script).parent)
        self.device = device
        self._default_accept = default_accept
        self._stacks = stacks
        self._model_dir = str(model_dir)
        self._metrics = Metrics("model")
        self._functions = find_functions(import_script(Path(script)))
        # Our own decoding keeps many rows apart; only a script itself knows what it makes of them.
        self.records = ONE if {"transform_fn", "input_fn"} & self._functions.keys() else ROWS
        if "batch_predict_fn" in self._functions and not sized:
            self.policy = replace(self.policy, max_size=BATCH)
        self._context = self._context_of("model")
        self._call("pre_model_fn", [self._model_dir], self._context)
        if "model_fn" in self._functions:
            self._model = self._call("model_fn", [self._model_dir], self._context)
        else:
            self._model = default_model_fn(model_dir, device)
        if not {"transform_fn", "predict_fn", "batch_predict_fn"} & self._functions.keys():
            self._model = prepared(self._model, device)
        own = not self._functions.keys().isdisjoint({"predict_fn", "batch_predict_fn"})
        self._defaults = defaults_of(self._model, device, own)

    def warmup(self) -> None:
        self._call("model_warmup_fn", [self._model_dir, self._model], self._context)

    def decode(self, request: Request) -> Call:
        context = self._context_of(request.model or "model", (request, RequestProcessor(headers_of(request))))
        assert context.request_processor is not None
        accept = wanted(request.accept, self._default_accept)
        call = Call(None, context, request, context.request_processor[0], accept)
        text = request.media_type in TEXT_TYPES
        data = codecs.decode_text(request.body, request.content_type) if text else bytearray(request.body)
        if "transform_fn" in self._functions:
            call.data = data
        elif "input_fn" in self._functions:
            call.data = self._guarded("input_fn", [data, stated_type(request)], context)
        else:
            call.data = self._defaults.input(request, data)
        return call

    def bucket(self, sample: Call) -> Any:
        if not self._stacks or "batch_predict_fn" in self._functions:
            return ()
        # What the default input_fn leaves unchanged cannot be stacked: such a request gets a bucket of its own.
        alone = not hasattr(sample.data, "shape") and "input_fn" not in self._functions
        return object() if alone else super().bucket(sample.data)

    def collate(self, samples: Sequence[Call]) -> Sequence[Call]:
        return samples

    def predict(self, batch: Sequence[Call]) -> list[tuple[Call, Any]]:
        import torch

        with torch.inference_mode(False):  # the script itself turns gradients off where it can
            return list(zip(batch, self._predictions(batch), strict=True))

    def _predictions(self, batch: Sequence[Call]) -> Sequence[Any]:
        if "transform_fn" in self._functions:
            return [self._transform(call) for call in batch]
        if "batch_predict_fn" in self._functions:
            arguments = [[call.data for call in batch], self._model]
            predictions = list(self._guarded("batch_predict_fn", arguments, self._context_of_batch(batch)))
            if len(predictions) != len(batch):
                raise HandlerError(f"batch_predict_fn gave {len(predictions)} predictions for {len(batch)} requests")
            return predictions
        if len(batch) == 1 or not self._stacks:
            return [self._predict(call.data, call.context) for call in batch]
        stacked = super().collate([call.data for call in batch])
        return super().split(self._predict(stacked, self._context_of_batch(batch)), len(batch))

    def encode(self, output: tuple[Call, Any], request: Request) -> Response | StreamingResponse:
        call, prediction = output
        if "transform_fn" not in self._functions and "output_fn" in self._functions:
            prediction = self._guarded("output_fn", [prediction, call.accept], call.context)
        elif "transform_fn" not in self._functions and not is_generator(prediction):
            if (kind := call.content_type) is not None and media_type(kind) != media_type(call.accept):
                return response_of(prediction, call, "predict_fn")
            found = self._defaults.output(prediction, call.accept)
            return Response(found.body, kind or found.content_type, call.status, call.attributes)
        name = next((one for one in ("transform_fn", "output_fn") if one in self._functions), "predict_fn")
        return response_of(prediction, call, name)

    def _context_of(self, name: str, *requests: tuple[Request, RequestProcessor]) -> Context:
        manifest, gpu, size = {"model": {"modelName": name}}, gpu_of(self.device), self.policy.max_size
        context = Context(name, self._model_dir, manifest, size, gpu, "1", metrics=self._metrics)
        if requests:
            context.request_processor = [processor for _, processor in requests]
            context.request_ids = {index: request.request_id for index, (request, _) in enumerate(requests)}
        return context

    def _context_of_batch(self, batch: Sequence[Call]) -> Context:
        """Return a context with each request of the batch by its index."""
        return self._context_of(batch[0].context.model_name, *((call.request, call.processor) for call in batch))

    def _transform(self, call: Call) -> Any:
        arguments = [self._model, call.data, stated_type(call.request), call.accept]
        return self._guarded("transform_fn", arguments, call.context)

    def _predict(self, data: Any, context: Context) -> Any:
        if "predict_fn" in self._functions:
            return self._guarded("predict_fn", [data, self._model], context)
        return self._defaults.predict(data, self._model)

    def _guarded(self, name: str, arguments: list[Any], context: Context) -> Any:
        """Call a function of the script. An exception is its own failure, a 500, unless it has a ``status_code``."""
        self._metrics.set_request_ids(context.request_ids)
        try:
            return self._call(name, arguments, context)
        except (ServingError, MemoryError):
            raise
        except Exception as exc:
            status = getattr(exc, "status_code", None)
            if isinstance(status, int) and 400 <= status <= 599:
                raise CodedError(status, "handler_error", str(getattr(exc, "message", exc))) from exc
            if is_unsupported(exc):
                kind = NotAcceptable if name == "output_fn" else UnsupportedMediaType
                raise kind(str(exc)) from exc
            if name != "input_fn":
                raise
            raise HandlerError(f"input_fn failed with {type(exc).__name__}; the log has more") from exc

    def _call(self, name: str, arguments: list[Any], context: Context) -> Any:
        function = self._functions.get(name)
        return None if function is None else function(arguments, context)


def import_script(path: Path) -> ModuleType:
    """Import the script by its path, with its folder first on ``sys.path``. Raises ModelError."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        log.error("the script cannot be imported", exc=exc, script=str(path))
        raise ModelError(f"importing {path} failed: {surroundings.describe(exc)}") from exc
    return module


def module_name(path: Path) -> str:
    """Return the module's name in the toolkits, by which children and pickles find it, or another
    where that is taken.
    """
    other = sys.modules.get(path.stem)
    is_taken = path.stem in sys.stdlib_module_names or (
        other is not None and getattr(other, "__file__", None) != str(path)
    )
    return f"{path.stem}_of_the_model" if is_taken else path.stem


def find_functions(module: ModuleType) -> dict[str, Function]:
    """Return the script's functions by name, with checked signatures. Raises ModelError."""
    found = {name: function for name in ARGUMENTS if callable(function := getattr(module, name, None))}
    apart = sorted({"input_fn", "predict_fn", "batch_predict_fn", "output_fn"} & found.keys())
    if "transform_fn" in found and apart:
        raise ModelError(
            f"{module.__file__} defines transform_fn and also {', '.join(apart)}; it may have one or the other"
        )
    for name, known in misspelled(vars(module), ARGUMENTS.keys() - found.keys()):
        place = origin.defined(getattr(module, name)) or module.__file__
        log.warning(f"{name} is no function that the server calls; did you mean {known}?", script=place)
    return {name: adapted(function, name, ARGUMENTS[name]) for name, function in found.items()}


def stated_type(request: Request) -> str:
    """Return the content type as scripts compare it: without a charset for text, which is decoded already."""
    text = request.media_type in TEXT_TYPES and parameters(request.content_type).keys() <= {"charset"}
    return request.media_type if text else request.content_type


def prepared(model: Any, device: str) -> Any:
    """Return the model on the device in evaluation mode, as the toolkit's ``predict_fn`` does at each call."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return model
    model = model.to(device)
    with contextlib.suppress(NotImplementedError):  # exported programs have no modes
        model.eval()
    return model


def is_unsupported(exc: Exception) -> bool:
    """Return whether it is a toolkit's own error for an unsupported type."""
    found = (sys.modules.get(f"{package}errors") for package in ("sagemaker_inference.", "sagemaker_containers._"))
    return any(isinstance(exc, getattr(one, "UnsupportedFormatError", ())) for one in found)


def is_generator(value: Any) -> bool:
    return isgenerator(value) or isasyncgen(value)


def stream_of(chunks: Any, content_type: str | None, call: Call) -> StreamingResponse:
    """Return a generator's response. Before its first chunk the script may still set headers."""

    def head() -> StreamingResponse:
        return StreamingResponse((), content_type or call.content_type, call.status, call.attributes)

    return StreamingResponse(chunks, content_type, late=head)


def response_of(result: Any, call: Call, name: str) -> Response | StreamingResponse:
    """Return the response for the result of function ``name``: a body, (body, type), or a web server's response.

    The body may be a stream. Raises HandlerError for a type that is not text.
    """
    if hasattr(result, "get_data") and hasattr(result, "status_code"):
        attributes = {name.lower(): value for name, value in dict(result.headers).items()}.get(CUSTOM_ATTRIBUTES)
        return Response(result.get_data(), result.content_type, result.status_code, attributes or call.attributes)
    body, content_type = result[:2] if isinstance(result, tuple) and len(result) > 1 else (result, None)
    if not isinstance(content_type, str | None):
        raise HandlerError(
            f"{name} gave a tuple of {', '.join(type(one).__name__ for one in result[:2])}; expected the answer, "
            f"or (answer, content type), and a content type is text"
        )
    if content_type is not None and not (content_type.isascii() and content_type.isprintable()):
        raise HandlerError(f"{name} gave the content type {content_type[:100]!r}; allowed: printable ASCII on one line")
    if is_generator(body):
        return stream_of(body, content_type, call)
    kind = content_type or call.content_type
    if kind is None:
        kind, body = call.accept, as_accepted(body, call.accept)
    return Response(bytes_of(body, kind), kind, call.status, call.attributes)


def as_accepted(body: Any, accept: str) -> Any:
    """Return an untyped result as the accepted type. Raises NotAcceptable for text where arrays are wanted."""
    if isinstance(body, str) and media_type(accept) in ARRAYS:
        raise NotAcceptable(f"the script answers with text, which is no {accept[:100]}")
    return body if isinstance(body, (str, *codecs.BYTES)) else codecs.encode(body, accept).body


def bytes_of(body: Any, kind: str) -> Body:
    """Return a typed result as exactly that type. Raises HandlerError where it is not of that type."""
    if isinstance(body, str):
        if media_type(kind) in ARRAYS:
            raise HandlerError(f"the script says that its answer is {kind[:100]}, and gives text")
        return codecs.to_bytes(body, codecs.own_charset(kind))
    if not isinstance(body, codecs.BYTES):
        return codecs.write(body, kind).body
    if codecs.type_of(body, kind) != kind:
        raise HandlerError(f"the script says that its answer is {kind[:100]}, and gives other bytes")
    return body
