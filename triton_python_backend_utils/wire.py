"""Tensors on the wire: the Open Inference Protocol (KServe v2) in JSON, with its extension for binary tensors.

A message is a JSON header, and behind it the bytes of those tensors whose ``binary_data_size`` is in the header, in
its order: numbers little-endian in C order, strings as ``serialize_byte_tensor`` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from triton_python_backend_utils.dtypes import (
    BF16,
    BYTES,
    NUMPY_TYPES,
    Array,
    deserialize_bytes_tensor,
    serialize_byte_tensor,
)
from triton_python_backend_utils.tensor import Tensor

BINARY_SIZE = "binary_data_size"
MAX_RANK = 32
MAX_HOLLOW = 1 << 20  # positions without a value that the tensors of a message may have together


class WireError(ValueError):
    """A message that is not of the protocol, in words for who sent it."""


class TensorEntry(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class OutputEntry(msgspec.Struct, omit_defaults=True):
    name: str
    parameters: dict[str, Any] = {}


class InferHeader(msgspec.Struct):
    inputs: list[TensorEntry]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[OutputEntry] = []


class ResultHeader(msgspec.Struct):
    """``error`` instead of outputs: one of the responses of a decoupled model."""

    outputs: list[TensorEntry] = []
    parameters: dict[str, Any] = {}
    error: Any = None


Header = TypeVar("Header", InferHeader, ResultHeader)

_infer = msgspec.json.Decoder(InferHeader)
_result = msgspec.json.Decoder(ResultHeader)


def split(body: Any, header_size: int | None) -> tuple[memoryview, memoryview]:
    """A message's header and what follows it. Raises WireError."""
    view = memoryview(body).cast("B")
    if header_size is None:
        return view, view[len(view) :]
    if header_size > len(view):
        raise WireError(f"the header is said to have {header_size} bytes, and the body has {len(view)}")
    return view[:header_size], view[header_size:]


def read_infer(header: memoryview) -> InferHeader:
    """Raises WireError."""
    return decode(_infer, header)


def read_result(header: memoryview | bytes) -> ResultHeader:
    """Raises WireError."""
    return decode(_result, header)


def decode(decoder: msgspec.json.Decoder[Header], header: memoryview | bytes) -> Header:
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise WireError(f"the JSON header is not of the Open Inference Protocol: {exc}") from exc
    except RecursionError:
        raise WireError("the JSON header is nested too deeply") from None


def read_tensors(entries: Sequence[TensorEntry], binary: memoryview) -> list[Tensor]:
    """The tensors of a message, each on memory of its own. Raises WireError."""
    tensors: list[Tensor] = []
    hollow = 0
    for entry in entries:
        check_entry(entry)
        hollow += math.prod(one for one in entry.shape if one) if 0 in entry.shape else 0
        if hollow > MAX_HOLLOW:
            raise WireError(
                f"input {entry.name!r}: shape is {str(entry.shape)[:100]}, which has {hollow} positions without a "
                f"value with the inputs before it; allowed: {MAX_HOLLOW}"
            )
        check_parameters(entry)
        size = entry.parameters.get(BINARY_SIZE)
        if size is None:
            tensors.append(Tensor._of(entry.name, entry.datatype, from_json(entry)))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or entry.data is not None:
            raise WireError(f"input {entry.name!r}: {BINARY_SIZE} is {size!r}; allowed: a count of bytes, without data")
        if size > len(binary):
            raise WireError(f"input {entry.name!r}: {size} bytes are announced and {len(binary)} are left in the body")
        tensors.append(Tensor._of(entry.name, entry.datatype, from_bytes(entry, binary[:size])))
        binary = binary[size:]
    if len(binary):
        raise WireError(f"{len(binary)} bytes of the body belong to no tensor")
    return tensors


def check_entry(entry: TensorEntry) -> None:
    if entry.datatype not in NUMPY_TYPES:
        raise WireError(f"input {entry.name!r}: datatype is {entry.datatype[:40]!r}; allowed: {', '.join(NUMPY_TYPES)}")
    if len(entry.shape) > MAX_RANK or any(not 0 <= one < 1 << 62 for one in entry.shape):
        raise WireError(f"input {entry.name!r}: shape is {str(entry.shape)[:100]}; allowed: at most {MAX_RANK} lengths")


def check_parameters(entry: TensorEntry) -> None:
    extra = sorted(entry.parameters.keys() - {BINARY_SIZE})
    if extra and extra[0].startswith("shared_memory"):
        raise WireError(f"input {entry.name!r}: shared memory is not supported: send the tensor in the body")
    if extra:
        raise WireError(f"input {entry.name!r}: {extra[0]!r} is not supported; allowed: {BINARY_SIZE}")


def shaped(entry: TensorEntry, array: Array) -> Array:
    try:
        return array.reshape(entry.shape)
    except ValueError:  # without elements, and yet beyond what an array may span
        raise WireError(f"input {entry.name!r}: shape is {str(entry.shape)[:100]}, which is too large") from None


def from_bytes(entry: TensorEntry, data: memoryview) -> Array:
    count = math.prod(entry.shape)
    if entry.datatype == BYTES:
        return from_strings(entry, data, count)
    kind = np.dtype(NUMPY_TYPES[entry.datatype]).newbyteorder("<")
    if len(data) != count * kind.itemsize:
        raise WireError(
            f"input {entry.name!r}: {len(data)} bytes for shape {entry.shape} of {entry.datatype}, "
            f"which takes {count * kind.itemsize}"
        )
    # A copy, since models may write into what they get and the body may be read-only or not aligned.
    return shaped(entry, np.frombuffer(data, kind).astype(NUMPY_TYPES[entry.datatype]))


def from_strings(entry: TensorEntry, data: memoryview, count: int) -> Array:
    try:
        found = deserialize_bytes_tensor(data)
    except ValueError as exc:
        raise WireError(f"input {entry.name!r}: {exc}") from exc
    if len(found) != count:
        raise WireError(f"input {entry.name!r}: {len(found)} strings for shape {entry.shape}")
    return shaped(entry, found)


def from_json(entry: TensorEntry) -> Array:
    """``data``, nested or flat, in C order. Raises WireError for values that the type does not have."""
    count = math.prod(entry.shape)
    if entry.data is None:
        raise WireError(f"input {entry.name!r} has neither data nor {BINARY_SIZE}")
    flat = entry.data if isinstance(entry.data, list) else [entry.data]
    while flat and isinstance(flat[0], list):
        if not all(isinstance(one, list) for one in flat):
            raise WireError(f"input {entry.name!r}: data is not nested evenly")
        flat = [one for inner in flat for one in inner]
    if len(flat) != count:
        raise WireError(f"input {entry.name!r}: {len(flat)} values for shape {entry.shape}, which takes {count}")
    values = strings(entry, flat) if entry.datatype == BYTES else numbers(entry, flat)
    return shaped(entry, values)


def strings(entry: TensorEntry, flat: list[Any]) -> Array:
    if not all(isinstance(one, str) for one in flat):
        raise WireError(f"input {entry.name!r}: data of BYTES are strings")
    found = np.empty(len(flat), dtype=np.object_)
    found[:] = [one.encode("utf-8", "surrogatepass") for one in flat]
    return found


def numbers(entry: TensorEntry, flat: list[Any]) -> Array:
    """Nothing is wrapped or cut off: a 300 or a 1.5 for a UINT8 is an error."""
    kind = np.dtype(np.float32 if entry.datatype == BF16 else NUMPY_TYPES[entry.datatype])
    allowed: set[type] = {bool} if kind.kind == "b" else {int, float} if kind.kind == "f" else {int}
    if not set(map(type, flat)) <= allowed:
        raise WireError(f"input {entry.name!r}: data has values that {entry.datatype} does not have")
    if kind.kind in "iu" and flat:
        limits = np.iinfo(kind)
        if min(flat) < limits.min or max(flat) > limits.max:
            raise WireError(f"input {entry.name!r}: data has values beyond {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):
        try:
            found = np.array(flat, dtype=kind)
        except OverflowError:  # an integer beyond all floating-point numbers
            raise WireError(f"input {entry.name!r}: data has values beyond {entry.datatype}") from None
    if kind.kind == "f" and np.isinf(found).any():  # JSON has no infinity, so that these were numbers once
        raise WireError(f"input {entry.name!r}: data has values beyond {entry.datatype}")
    return bf16_bits(found) if entry.datatype == BF16 else found


def bf16_bits(found: Array) -> Array:
    """The upper halves of FP32 numbers, rounded to the nearest as torch does."""
    bits = found.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    halves = np.where(np.isnan(found), np.uint32(0x7FC00000), rounded)
    return (halves >> np.uint32(16)).astype(np.uint16)


def write_tensors(
    tensors: Sequence[Tensor], is_binary: Callable[[str], bool]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The entries of a header, and what comes behind it. Raises WireError for strings that JSON cannot hold."""
    entries: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for tensor in tensors:
        array = tensor._on_host()
        entry: dict[str, Any] = {"name": tensor.name(), "datatype": tensor._datatype, "shape": list(array.shape)}
        if is_binary(tensor.name()):
            chunks.append(to_bytes(tensor._datatype, array))
            entry["parameters"] = {BINARY_SIZE: len(chunks[-1])}
        else:
            entry["data"] = to_json(tensor.name(), tensor._datatype, array)
        entries.append(entry)
    return entries, chunks


def to_bytes(datatype: str, array: Array) -> bytes:
    if datatype == BYTES:
        return serialize_byte_tensor(array) or b""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def to_json(name: str, datatype: str, array: Array) -> list[Any]:
    flat: list[Any] = array.ravel().tolist()
    if datatype == BF16:
        return (array.ravel().astype(np.uint32) << np.uint32(16)).view(np.float32).tolist()  # type: ignore[no-any-return]
    if datatype != BYTES:
        return flat
    try:
        return [one.decode() if isinstance(one, bytes) else str(one) for one in flat]
    except UnicodeDecodeError:
        raise WireError(f"output {name!r} has bytes that are no UTF-8: ask for it with binary_data") from None


def message(header: dict[str, Any], chunks: list[bytes]) -> tuple[bytes, int]:
    """A whole message and the size of its header."""
    head = msgspec.json.encode(header)
    return b"".join([head, *chunks]), len(head)
