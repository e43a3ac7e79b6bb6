"""ToolkitHandler: makes a Handler of a SageMaker-toolkit script, ``code/inference.py``.

The script may define ``pre_model_fn(model_dir)``, ``model_fn(model_dir)``, ``model_warmup_fn(model_dir, model)`` and
either ``transform_fn(model, input_data, content_type, accept)`` or any of ``input_fn(input_data, content_type)``,
``predict_fn(data, model)`` and ``output_fn(prediction, accept)``. Each may take one parameter more, the context.
``batch_predict_fn(list, model)``, which no toolkit has, gets the data of many requests and gives as many predictions.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from serving import codecs, log
from serving.accept import wanted
from serving.errors import (
    CodedError,
    HandlerError,
    ModelError,
    NotAcceptable,
    ServingError,
    UnsupportedMediaType,
)
from serving.handler import BatchPolicy, Handler
from serving.request import Request, Response, StreamingResponse
from serving.weights import is_torchscript, load_torchscript
from serving.worker.context import Context

BATCH = 32  # requests in one call of batch_predict_fn, unless somebody has chosen otherwise
MODULE_NAME = "serving_user_inference"
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
TEXT_TYPES = ("application/json", "text/csv")

Function = Callable[..., Any]


@dataclass(slots=True)
class Call:
    """One request on its way through the script's functions."""

    data: Any
    context: Context
    content_type: str
    accept: str


class ToolkitHandler(Handler):
    """By default each request runs alone, as such scripts expect. With a larger ``max_size`` the tensors that
    ``input_fn`` gives are stacked, and ``predict_fn`` sees the batch."""

    policy = BatchPolicy(max_size=1)

    def load(
        self, model_dir: Path, device: str, *, script: str, default_accept: str = codecs.JSON, sized: bool = False
    ) -> None:
        """``script`` is the path of the user's module; ``sized`` says that somebody has chosen the size of batches.
        Raises ModelError for a script that can never work."""
        from serving.worker import sagemaker_inference

        sagemaker_inference.install()
        self.device = device
        self._default_accept = default_accept
        self._model_dir = str(model_dir)
        module = import_script(Path(script))
        self._functions = find_functions(module)
        if "batch_predict_fn" in self._functions and not sized:
            self.policy = replace(self.policy, max_size=BATCH)
        self._context = Context(self._model_dir, device, self.policy.max_size, None)
        self._call("pre_model_fn", [self._model_dir], self._context)
        if "model_fn" in self._functions:
            self._model = self._call("model_fn", [self._model_dir], self._context)
        else:
            self._model = default_model_fn(model_dir, device)

    def warmup(self) -> None:
        self._call("model_warmup_fn", [self._model_dir, self._model], self._context)

    def decode(self, request: Request) -> Call:
        context = Context(self._model_dir, self.device, self.policy.max_size, request)
        call = Call(None, context, request.content_type, wanted(request.accept, self._default_accept))
        text = request.media_type in TEXT_TYPES
        data = codecs.decode_text(request.body) if text else bytearray(request.body)
        if "transform_fn" in self._functions:
            call.data = data
        elif "input_fn" in self._functions:
            call.data = self._guarded("input_fn", [data, request.content_type], context)
        else:
            call.data = default_input_fn(request, self.device)
        return call

    def bucket(self, sample: Call) -> Any:
        return () if "batch_predict_fn" in self._functions else super().bucket(sample.data)

    def collate(self, samples: Sequence[Call]) -> Sequence[Call]:
        return samples

    def predict(self, batch: Sequence[Call]) -> list[tuple[Call, Any]]:
        if "transform_fn" in self._functions:
            return [(call, self._transform(call)) for call in batch]
        if "batch_predict_fn" in self._functions:
            arguments = [[call.data for call in batch], self._model]
            predictions = list(self._guarded("batch_predict_fn", arguments, batch[0].context))
            if len(predictions) != len(batch):
                raise HandlerError(f"batch_predict_fn gave {len(predictions)} predictions for {len(batch)} requests")
            return list(zip(batch, predictions, strict=True))
        if len(batch) == 1:
            return [(batch[0], self._predict(batch[0].data, batch[0].context))]
        outputs = self._predict(super().collate([call.data for call in batch]), batch[0].context)
        return list(zip(batch, super().split(outputs, len(batch)), strict=True))

    def encode(self, output: tuple[Call, Any], request: Request) -> Response | StreamingResponse:
        call, prediction = output
        if "transform_fn" not in self._functions and "output_fn" in self._functions:
            prediction = self._guarded("output_fn", [prediction, call.accept], call.context)
        elif "transform_fn" not in self._functions and not is_pieces(prediction):
            return default_output(prediction, call.accept)
        return response_of(prediction, call)

    def _transform(self, call: Call) -> Any:
        arguments = [self._model, call.data, call.content_type, call.accept]
        return self._guarded("transform_fn", arguments, call.context)

    def _predict(self, data: Any, context: Context) -> Any:
        import torch

        if "predict_fn" in self._functions:
            return self._guarded("predict_fn", [data, self._model], context)
        with torch.no_grad():
            return self._model(data.to(self.device) if hasattr(data, "to") else data)

    def _guarded(self, name: str, arguments: list[Any], context: Context) -> Any:
        """Call a function of the script. What it raises is its own failure, a 500, unless it has a ``status_code``."""
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
        if function is None:
            return None
        return function(*arguments, context) if takes_context(function, name) else function(*arguments)


def import_script(path: Path) -> ModuleType:
    """Import the script by its location, with its folder first on ``sys.path``. Raises ModelError."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        log.error("the script cannot be imported", exc=exc, script=str(path))
        raise ModelError(f"importing {path} failed: {type(exc).__name__}: {exc}") from exc
    return module


def find_functions(module: ModuleType) -> dict[str, Function]:
    """The script's functions by name, their signatures checked. Raises ModelError."""
    found = {name: function for name in ARGUMENTS if callable(function := getattr(module, name, None))}
    apart = sorted({"input_fn", "predict_fn", "batch_predict_fn", "output_fn"} & found.keys())
    if "transform_fn" in found and apart:
        raise ModelError(
            f"{module.__file__} defines transform_fn and also {', '.join(apart)}; it may have one or the other"
        )
    for name, function in found.items():
        takes_context(function, name)
    return found


def takes_context(function: Function, name: str) -> bool:
    """Whether the function wants the context: by its name, or by one parameter more than usual. Raises ModelError."""
    parameters = list(inspect.signature(function).parameters.values())
    expected = ARGUMENTS[name]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    extra = len(parameters) - expected
    if extra not in (0, 1):
        raise ModelError(
            f"{name} takes {len(parameters)} arguments; allowed: {expected}, or {expected + 1} with context"
        )
    return extra == 1


def default_output(prediction: Any, accept: str) -> Response:
    """As the toolkit writes it, to the blank; and what the toolkit cannot, as the server does."""
    from serving.worker.sagemaker_inference import DefaultPytorchInferenceHandler, UnsupportedFormatError

    try:
        body = DefaultPytorchInferenceHandler().default_output_fn(prediction, accept)
    except (UnsupportedFormatError, TypeError, ValueError):
        return codecs.encode(prediction, accept)
    return Response(body.encode() if isinstance(body, str) else body, accept)


def is_unsupported(exc: Exception) -> bool:
    """Whether it is the toolkit's own word for a type that it cannot read or write."""
    errors = sys.modules.get("sagemaker_inference.errors")
    return errors is not None and isinstance(exc, errors.UnsupportedFormatError)


def is_pieces(value: Any) -> bool:
    return inspect.isgenerator(value) or inspect.isasyncgen(value)


def pieces_of(pieces: Any, content_type: str | None, call: Call) -> StreamingResponse:
    """A generator's answer. Before its first piece the script may still set headers."""

    def head() -> StreamingResponse:
        context = call.context
        kind = content_type or context.response_content_type
        return StreamingResponse((), kind, context.response_status, context.custom_attributes)

    return StreamingResponse(pieces, late=head)


def response_of(result: Any, call: Call) -> Response | StreamingResponse:
    """What ``output_fn`` or ``transform_fn`` gave: a body, or a body and its type; the body may come in pieces."""
    body, content_type = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if is_pieces(body):
        return pieces_of(body, content_type, call)
    kind = content_type or call.context.response_content_type or call.accept
    if isinstance(body, str):
        body = body.encode()
    if not isinstance(body, bytes | bytearray | memoryview):
        body = codecs.encode(body, call.accept).body
    return Response(body, kind, call.context.response_status, call.context.custom_attributes)


def default_input_fn(request: Request, device: str) -> Any:
    """As the toolkit reads it; and what the toolkit cannot, as the server does."""
    from serving.worker.sagemaker_inference import DECODERS, to_tensor

    if request.media_type in DECODERS and request.media_type != codecs.NPZ:
        return to_tensor(bytes(request.body), request.media_type, device)
    value = codecs.decode(request.body, request.content_type)
    if not hasattr(value, "dtype"):
        return value
    import torch

    return torch.tensor(value).to(device)


def default_model_fn(model_dir: Path, device: str) -> Any:
    """``model.pt``, else the only ``*.pt`` or ``*.pth`` file, as TorchScript. Raises ModelError."""
    found = sorted(path for path in model_dir.iterdir() if path.suffix in (".pt", ".pth"))
    chosen = [path for path in found if path.name == "model.pt"] or found
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen) or "none"
        raise ModelError(f"without model_fn {model_dir} must hold model.pt or one *.pt or *.pth file; found {names}")
    if not is_torchscript(chosen[0]):
        raise ModelError(f"{chosen[0].name} is no TorchScript file: define model_fn to load it")
    return load_torchscript(chosen[0], device)
