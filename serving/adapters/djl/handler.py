"""DjlHandler: a Handler for a DJL Serving script, ``model.py`` with ``handle(inputs: Input) -> Output``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving import codecs
from serving.adapters import shims
from serving.adapters.context import CUSTOM_ATTRIBUTES, headers_of
from serving.adapters.djl import ndlist
from serving.adapters.djl.inputs import Input
from serving.adapters.djl.outputs import TYPES, FormattedChunks, Output, finish
from serving.adapters.djl.pairs import PairList
from serving.adapters.toolkit.handler import import_script
from serving.adapters.torchserve.forms import MULTIPART, URLENCODED, Field, multipart, urlencoded
from serving.errors import HandlerError, ModelError
from serving.handler import BatchPolicy, Handler
from serving.request import Request, Response, StreamingResponse


class DjlHandler(Handler):
    """The handler of one script. A batch is one call, whose output has a part for each request.

    An Output with an error code is the answer, not a failure.
    """

    records = "one"
    policy = BatchPolicy(max_size=1)

    def load(
        self, model_dir: Path, device: str, *, script: str, properties: Mapping[str, str], function: str = "handle"
    ) -> None:
        """Load the script. ``properties`` are those of ``serving.properties`` for it.

        Raises ModelError where ``function`` is missing or answers the empty input at the start with an error, and
        whatever it raises then.
        """
        install()
        self.device = device
        index = device.partition(":")[2] or "0" if device.startswith("cuda") else "-1"
        self.properties = {**properties, "model_dir": str(model_dir), "device_id": index}
        module = import_script(Path(script))
        handle = getattr(module, function, None)
        if not callable(handle):
            raise ModelError(f"{script} has no function {function}{hint(vars(module))}")
        self.handle: Callable[[Input], Output | None] = handle
        empty = Input()
        empty.function_name = function
        empty.properties.update(self.properties)
        started = self.handle(empty)
        if isinstance(started, Output) and started.code >= 300:
            raise ModelError(
                f"{function} gave {started.code} at the start: {started.of(0, 1).decode(errors='replace')}"
            )

    def bucket(self, sample: Input) -> Any:
        return ()

    def decode(self, request: Request) -> Input:
        one = Input()
        one.function_name = getattr(self.handle, "__name__", "handle")
        one.properties.update(headers_of(request))
        own = {name: self.properties[name] for name in ("model_dir", "device_id")}
        one.properties |= {**request.attributes, **own}
        fields = fields_of(request)
        if fields is None:
            one.content.add("data", bytearray(request.body))
        for field in fields or ():
            one.content.add(field.name, bytearray(field.value))
        return one

    def predict(self, batch: Sequence[Input]) -> list[tuple[Output, int, int]]:
        output = self.handle(batch[0] if len(batch) == 1 else joined(batch))
        if output is None:
            return [(Output(204, "No content"), 0, 1) for _ in batch]
        if not isinstance(output, Output):
            raise HandlerError(f"handle gave {type(output).__name__}; an Output is expected")
        if len(batch) > 1:
            check_batch(output, len(batch))
        return [(output, index, len(batch)) for index in range(len(batch))]

    def encode(self, output: tuple[Output, int, int], request: Request) -> Response | StreamingResponse:
        given, index, size = output
        attributes, kind = given.property(CUSTOM_ATTRIBUTES, index), given.property("content-type", index)
        if given.stream_content is not None:
            formatter = given.stream_output_formatter
            kind = kind or (TYPES.get(formatter) if formatter is not None else None)
            return StreamingResponse(FormattedChunks(given), kind, given.code, attributes)
        body = given.of(index, size)
        if index == size - 1:
            finish(given)
        return Response(body, kind or usual_type(body), given.code, attributes)


def install() -> None:
    """Make ``djl_python`` importable in this process.

    A real package keeps its other modules; Input, Output and PairList are this server's, which knows its requests.
    """
    if shims.install("djl_python", MODULES):
        return
    for name in ("", "inputs", "outputs"):
        members = MODULES[name]
        vars(importlib.import_module(f"djl_python.{name}" if name else "djl_python")).update(members)


def check_batch(output: Output, size: int) -> None:
    """Raise HandlerError for an output that cannot answer a batch, whose requests then run apart."""
    if output.stream_content is not None:
        raise HandlerError("an output in pieces is the answer to one request, not to a batch")
    if output.code >= 400 and output.content.size() != size:
        raise HandlerError(f"the output of {size} requests has code {output.code}: {output.message}")
    for index in range(size):
        output.of(index, size)


def hint(names: Mapping[str, object]) -> str:
    found = sorted(TOOLKIT_NAMES & names.keys())
    return f"; {', '.join(found)} are SageMaker's, and looked for in code/inference.py" if found else ""


TOOLKIT_NAMES = {"model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn"}
MODULES: dict[str, dict[str, object]] = {
    "": {"Input": Input, "Output": Output, "PairList": PairList},
    "inputs": {"Input": Input},
    "outputs": {"Output": Output},
    "pair_list": {"PairList": PairList},
    "np_util": {"from_nd_list": ndlist.read, "to_nd_list": ndlist.write},
}


def fields_of(request: Request) -> list[Field] | None:
    """Return the fields of a form, or None for another body. Raises BadRequest."""
    if request.media_type == MULTIPART:
        return multipart(bytes(request.body), request.content_type)
    return urlencoded(bytes(request.body)) if request.media_type == URLENCODED else None


def joined(batch: Sequence[Input]) -> Input:
    """Return many requests as one input."""
    whole = Input()
    whole.function_name = batch[0].function_name
    whole.properties["batch_size"] = str(len(batch))
    for index, one in enumerate(batch):
        prefix = f"batch_{index:03d}."
        whole.properties.update({prefix + name: value for name, value in one.properties.items()})
        for key, value in zip(one.content.keys, one.content.values, strict=True):
            whole.content.add(f"{prefix}{key or 'data'}", value)
    return whole


def usual_type(body: bytes) -> str:
    """Return the type of an untyped answer: text if it is, and JSON if it looks like that."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return codecs.RAW
    if "\0" in text:
        return codecs.RAW
    return codecs.JSON if text[:1] in ("{", "[") else "text/plain"
