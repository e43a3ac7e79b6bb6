"""``model_warmup``: the requests that a configuration wants to run before the first client's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import triton_python_backend_utils as pb_utils
from serving.adapters.triton.calls import Call
from serving.adapters.triton.config import TritonConfig, Warmup, WarmupInput
from serving.adapters.triton.decoupled import Executor
from serving.adapters.triton.decoupled_stream import Warming
from serving.adapters.triton.runner import Runner
from serving.errors import ModelError
from serving.request import Client
from triton_python_backend_utils import wire
from triton_python_backend_utils.dtypes import BYTES, NUMPY_TYPES, Array, wire_name

FOLDER = "warmup"
LIMIT = 300.0  # seconds


def warm(config: TritonConfig, folder: Path, runner: Runner, executor: Executor | None) -> None:
    """Run all warm-up calls; ``executor`` is that of a decoupled model. Raises ModelError where one fails."""
    for calls in warm_calls(config, folder):
        if executor is None:
            runner.run(calls)
        for call in calls:
            if executor is not None:
                Warming(call)
                executor.submit(call)
                if not call.sent.wait(max(0.0, call.until - time.monotonic())):
                    raise ModelError("model_warmup failed: the model sent no last response in time")
            reason = call.failure or (call.response and call.response.error())
            if reason:
                raise ModelError(f"model_warmup failed: {reason}")


def warm_calls(config: TritonConfig, folder: Path) -> Iterator[list[Call]]:
    """Yield the batches to execute. Raises ModelError for samples that cannot be created."""
    for sample in config.model_warmup:
        for _ in range(max(1, sample.count)):
            size = max(1, sample.batch_size) if config.max_batch_size else 1
            yield [call_of(sample, config, folder) for _ in range(size)]


def call_of(sample: Warmup, config: TritonConfig, folder: Path) -> Call:
    rows = [1] if config.max_batch_size else []
    inputs = [tensor_of(name, one, rows, folder) for name, one in sample.inputs.items()]
    until = time.monotonic() + LIMIT
    return Call("", inputs, [one.name for one in config.output], None, 1, "warmup", Client(), until, {})


def tensor_of(name: str, sample: WarmupInput, rows: list[int], folder: Path) -> pb_utils.Tensor:
    datatype = wire_name(sample.data_type)
    shape = [*rows, *sample.dims]
    if datatype not in NUMPY_TYPES or any(length < 0 for length in shape):
        raise ModelError(f"model_warmup of {name!r}: {sample.data_type} of dims {sample.dims} cannot be made")
    if sample.input_data_file:
        return from_file(name, datatype, shape, folder / FOLDER / sample.input_data_file)
    return pb_utils.Tensor._of(name, datatype, made(datatype, shape, sample.random_data))


def from_file(name: str, datatype: str, shape: list[int], path: Path) -> pb_utils.Tensor:
    try:
        data = memoryview(path.read_bytes())
        return pb_utils.Tensor._of(name, datatype, wire.from_bytes(wire.TensorEntry(name, shape, datatype), data))
    except (OSError, wire.WireError) as exc:
        raise ModelError(f"model_warmup of {name!r}: {exc}") from exc


def made(datatype: str, shape: list[int], random: bool) -> Array:
    if datatype == BYTES:
        array = np.empty(math.prod(shape), dtype=np.object_)
        array[:] = [np.random.default_rng().bytes(8).hex().encode() if random else b""] * len(array)
        return array.reshape(shape)
    if not random:
        return np.zeros(shape, NUMPY_TYPES[datatype])
    return np.random.default_rng().integers(0, 2, shape).astype(NUMPY_TYPES[datatype])
