"""Call: one request of the Open Inference Protocol, read and checked against the model's configuration."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import triton_python_backend_utils as pb_utils
from serving.adapters.triton.config import ModelInput, TritonConfig
from serving.errors import BadRequest, NotFound, ServingError, UnsupportedMediaType
from serving.http.accept import parameters
from serving.http.open_inference import BINARY, HEADER_SIZE, UNKNOWN, model_path
from serving.request import Client, Request
from triton_python_backend_utils import wire
from triton_python_backend_utils.dtypes import wire_name

JSON_TYPES = ("", "application/json", "application/octet-stream", "application/x-www-form-urlencoded")
OWN_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output")


class Sink(Protocol):
    """A receiver of a decoupled model's responses, from any thread."""

    def put(self, response: pb_utils.InferenceResponse | None, final: bool) -> None:
        """Take a response. May wait. Raises TritonModelException where the client has left."""
        ...

    def fail(self, exc: BaseException) -> None:
        """Take the exception of ``execute``."""
        ...


@dataclass(slots=True, eq=False)
class Call:
    """One request. ``rows`` is its size in a batch.

    ``binary`` names the outputs sent as bytes, ``wanted`` those sent at all. ``arrival`` is an instant of the monotonic
    clock, ``patience`` the seconds that it may wait in the queue. ``shares``: other requests are in the same
    ``execute``. It was read in ``read_ns``, and ran for ``run_ns`` from ``begun_ns`` of the monotonic clock on.
    """

    id: str
    inputs: list[pb_utils.Tensor]
    wanted: list[str]
    binary: frozenset[str] | None
    rows: int
    key: Hashable
    client: Client
    until: float
    parameters: dict[str, Any]
    arrival: float = field(default_factory=time.monotonic)
    patience: float = 0.0
    correlation: int | str = 0
    flags: int = 0
    timeout: int = 0
    priority: int = 0
    trace: str | None = None
    request: Any = None
    response: pb_utils.InferenceResponse | None = None
    failure: ServingError | None = None
    sent: threading.Event = field(default_factory=threading.Event)
    asked: bool = False
    shares: bool = False
    sink: Sink | None = None
    on_again: Callable[[Call], None] | None = None
    read_ns: int = 0
    begun_ns: int = 0
    run_ns: int = 0

    def is_binary(self, name: str) -> bool:
        """Return whether an output is sent as bytes; ``binary`` is None where all are."""
        return self.binary is None or name in self.binary

    @property
    def is_settled(self) -> bool:
        return self.response is not None or self.failure is not None

    # What the request's methods ask.

    def is_cancelled(self) -> bool:
        return self.client.gone

    def sender(self) -> pb_utils.InferenceResponseSender:
        self.asked = True
        return pb_utils.InferenceResponseSender(self._deliver, self, single=self.sink is None)

    def _deliver(self, response: pb_utils.InferenceResponse | None, final: bool) -> None:
        if self.sink is not None:
            self.sink.put(response, final)
        elif response is not None:
            self.response = response
            self.sent.set()

    @property
    def is_rescheduled(self) -> bool:
        return self.request._release == pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE  # type: ignore[no-any-return]

    def renew(self) -> pb_utils.InferenceRequest:
        """Return the request for ``execute``."""
        if self.request is not None and self.is_rescheduled and self.on_again is not None:
            self.on_again(self)
        self.request = pb_utils.InferenceRequest(
            self.id,
            self.correlation,
            self.inputs,
            self.wanted,
            flags=self.flags,
            timeout=self.timeout,
            trace=pb_utils.InferenceTrace(self.trace),
            parameters=self.parameters,
        )
        self.request._origin = self
        return self.request  # type: ignore[no-any-return]


class Calls:
    """The reader of requests for one version of one model."""

    def __init__(self, config: TritonConfig, version: str) -> None:
        self.config = config
        self.version = version

    def check_path(self, request: Request) -> str:
        """Return the verb of the path. Raises NotFound where it names another model or version."""
        target = model_path(request.path)
        if target is None:
            return "infer"
        if target.model not in (self.config.name, request.model):
            raise NotFound(f"{UNKNOWN} '{target.model}' is not found; '{self.config.name}' is served here")
        if target.version not in ("", self.version):
            raise NotFound(
                f"{UNKNOWN} '{target.model}' version {target.version} is not found; version {self.version} is served"
            )
        return target.verb

    def read(self, request: Request) -> Call:
        """Read a request. Raises BadRequest or UnsupportedMediaType."""
        try:
            header_bytes, binary = wire.split(request.body, header_size(request))
            header = wire.read_infer(header_bytes)
            inputs = wire.read_tensors(header.inputs, binary)
        except wire.WireError as exc:
            raise BadRequest(str(exc)) from exc
        wanted, chosen = self._outputs(header)
        inputs, rows, key = self._inputs(inputs, header)
        own = {name: value for name, value in header.parameters.items() if name not in OWN_PARAMETERS}
        call = Call(header.id, inputs, wanted, chosen, rows, key, request.client, request.deadline.at, checked(own))
        call.trace = request.traceparent
        read_parameters(call, header.parameters)
        return call

    def _outputs(self, header: wire.InferHeader) -> tuple[list[str], frozenset[str] | None]:
        everything = header.parameters.get("binary_data_output", False)
        if not isinstance(everything, bool):
            raise BadRequest(f"binary_data_output is {everything!r}; allowed: true, false")
        known = [output.name for output in self.config.output]
        chosen: set[str] = set()
        for output in header.outputs:
            if known and output.name not in known:
                raise BadRequest(f"unexpected output {output.name!r} for model {self.config.name!r}; it has {known}")
            if is_binary(output.name, output.parameters, everything):
                chosen.add(output.name)
        if not header.outputs:
            return known, None if everything else frozenset()
        return [output.name for output in header.outputs], frozenset(chosen)

    def _inputs(
        self, tensors: list[pb_utils.Tensor], header: wire.InferHeader
    ) -> tuple[list[pb_utils.Tensor], int, Hashable]:
        names = [tensor.name() for tensor in tensors]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise BadRequest(f"input {double[0]!r} is given twice")
        if not self.config.input:
            return tensors, 1, tuple((tensor.name(), tuple(tensor.shape())) for tensor in tensors)
        missing = [one.name for one in self.config.input if not one.optional and one.name not in names]
        if missing:
            raise BadRequest(
                f"expected {len(self.config.input)} inputs for model {self.config.name!r}, got {len(names)}: "
                f"{', '.join(missing)} is missing"
            )
        checked_tensors = [self._checked(tensor) for tensor in tensors]
        rows = {tensor.shape()[0] for tensor in tensors} if self.config.max_batch_size else {1}
        if len(rows) > 1:
            raise BadRequest(f"the inputs have different batch sizes: {sorted(rows)}")
        return checked_tensors, next(iter(rows), 1), tuple(self._key(tensor) for tensor in tensors)

    def _checked(self, tensor: pb_utils.Tensor) -> pb_utils.Tensor:
        """Return the tensor in the shape that the model sees."""
        name, shape = tensor.name(), tensor.shape()
        known = self.config.find_input(name)
        if known is None:
            has = [one.name for one in self.config.input]
            raise BadRequest(f"unexpected input {name!r} for model {self.config.name!r}; it has {has}")
        if known.data_type != "TYPE_INVALID" and wire_name(known.data_type) != tensor._datatype:
            raise BadRequest(
                f"input {name!r} of model {self.config.name!r} has datatype {wire_name(known.data_type)}, "
                f"and the request says {tensor._datatype}"
            )
        batched = self.config.max_batch_size > 0
        if not fits(shape[1:] if batched else shape, known.dims) or (batched and not shape):
            expected = [-1, *known.dims] if batched else known.dims
            raise BadRequest(
                f"unexpected shape for input {name!r} for model {self.config.name!r}. Expected {expected}, got {shape}"
            )
        if batched and not 1 <= shape[0] <= self.config.max_batch_size:
            raise BadRequest(
                f"the batch size of input {name!r} is {shape[0]}; allowed: 1 to {self.config.max_batch_size}"
            )
        return reshaped(tensor, known, shape[:1] if batched else [])

    def _key(self, tensor: pb_utils.Tensor) -> Hashable:
        """Return what must be equal within a batch."""
        known = self.config.find_input(tensor.name())
        shape = tensor.shape()[1:] if self.config.max_batch_size else tensor.shape()
        ragged = known is not None and known.allow_ragged_batch
        return (tensor.name(), None if ragged else tuple(shape))


def fits(shape: list[int], dims: list[int]) -> bool:
    return len(shape) == len(dims) and all(dim in (-1, length) for length, dim in zip(shape, dims, strict=True))


def reshaped(tensor: pb_utils.Tensor, known: ModelInput, rows: list[int]) -> pb_utils.Tensor:
    if known.reshape is None:
        return tensor
    try:
        array = tensor._on_host().reshape([*rows, *known.reshape.shape])
    except ValueError:
        raise BadRequest(f"input {known.name!r} of shape {tensor.shape()} does not fit {known.reshape.shape}") from None
    return pb_utils.Tensor._of(tensor.name(), tensor._datatype, array)


def header_size(request: Request) -> int | None:
    """Return the bytes of JSON before the tensors; None where everything is JSON.

    Raises BadRequest or UnsupportedMediaType.
    """
    if request.media_type == BINARY:
        text = parameters(request.content_type).get(HEADER_SIZE, "")
        if not (text.isascii() and text.isdecimal()) or len(text) > 18:
            raise BadRequest(f"Content-Type {BINARY} needs {HEADER_SIZE}, the bytes of the JSON header")
        return int(text)
    if request.media_type not in JSON_TYPES and model_path(request.path) is None:
        raise UnsupportedMediaType(f"Content-Type is {request.media_type[:80]}; allowed: application/json, {BINARY}")
    return None


def checked(own: dict[str, Any]) -> dict[str, Any]:
    try:
        return pb_utils.messages.checked_parameters(own)
    except pb_utils.TritonModelException as exc:
        raise BadRequest(str(exc)) from exc


def is_binary(name: str, parameters: dict[str, Any], default: bool) -> bool:
    """Return whether an output is wanted as bytes behind the JSON. Raises BadRequest for any other parameter of it."""
    extra = sorted(parameters.keys() - {"binary_data"})
    if extra and extra[0].startswith("shared_memory"):
        raise BadRequest(f"output {name!r}: shared memory is not supported: take it from the answer")
    if extra:
        raise BadRequest(f"output {name!r}: {extra[0]!r} is not supported; allowed: binary_data")
    binary = parameters.get("binary_data", default)
    if not isinstance(binary, bool):
        raise BadRequest(f"output {name!r}: binary_data is {binary!r}; allowed: true, false")
    return binary


def read_parameters(call: Call, given: dict[str, Any]) -> None:
    correlation = given.get("sequence_id", 0)
    if isinstance(correlation, bool) or not isinstance(correlation, int | str):
        raise BadRequest(f"sequence_id is {correlation!r}; allowed: an integer or a string")
    call.correlation = correlation
    for name, flag in (("sequence_start", 1), ("sequence_end", 2)):
        value = given.get(name, False)
        if not isinstance(value, bool):
            raise BadRequest(f"{name} is {value!r}; allowed: true, false")
        call.flags |= flag if value else 0
    for name in ("timeout", "priority"):
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
            raise BadRequest(f"{name} is {value!r}; allowed: an integer, 0 or more")
    call.timeout, call.priority = given.get("timeout", 0), given.get("priority", 0)
