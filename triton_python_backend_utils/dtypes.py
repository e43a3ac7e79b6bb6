"""Data types: Triton's names and numbers, and numpy's types for them. Strings are arrays of bytes objects."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BF16 = "BF16"
BYTES = "BYTES"
# On the wire: name, numpy type, and the name in configurations where it is not TYPE_<name>. numpy has no BF16: there
# the two bytes of each number are kept as they are.
NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    BYTES: np.object_,
    BF16: np.uint16,
}
NUMBERS = {name: number for number, name in enumerate(NUMPY_TYPES, 1)}
NAMES = {np.dtype(kind): name for name, kind in NUMPY_TYPES.items() if name != BF16}

TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    ("TYPE_STRING" if name == BYTES else f"TYPE_{name}"): bool if name == "BOOL" else kind
    for name, kind in NUMPY_TYPES.items()
    if name != BF16
}


def wire_name(config_type: str) -> str:
    """``TYPE_FP32`` to ``FP32``, ``TYPE_STRING`` to ``BYTES``."""
    return BYTES if config_type == "TYPE_STRING" else config_type.removeprefix("TYPE_")


def triton_to_numpy_type(data_type: int) -> Any:
    """The numpy type for one of Triton's numbers; None for BF16 and for what is none."""
    name = next((name for name, number in NUMBERS.items() if number == data_type), None)
    return None if name is None or name == BF16 else NUMPY_TYPES[name]


def numpy_to_triton_type(data_type: Any) -> int | None:
    """Triton's number for a numpy type; None where there is none."""
    kind = np.dtype(data_type)
    if kind.kind == "S":
        return NUMBERS[BYTES]
    name = NAMES.get(kind)
    return None if name is None else NUMBERS[name]


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The numpy type for ``TYPE_FP32`` and the like. Raises KeyError for one that numpy does not have."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def serialize_byte_tensor(input_tensor: Array) -> bytes | tuple[()] | None:
    """An array of bytes or str objects in C order, each behind its length as four little-endian bytes.

    As in Triton an empty array gives ``()``, and one of numbers None.
    """
    if input_tensor.size == 0:
        return ()
    if input_tensor.dtype.kind not in "OS":
        return None
    parts = []
    for one in input_tensor.ravel(order="C").tolist():
        data = one if isinstance(one, bytes) else str(one).encode()
        parts += [struct.pack("<I", len(data)), data]
    return b"".join(parts)


def deserialize_bytes_tensor(encoded_tensor: Any) -> Array:
    """The other way round: a one-dimensional array of bytes objects. Raises ValueError for bytes that are none."""
    view = memoryview(encoded_tensor).cast("B")
    found: list[bytes] = []
    offset = 0
    while offset < len(view):
        if offset + 4 > len(view):
            raise ValueError("the length of a string is cut off")
        (length,) = struct.unpack_from("<I", view, offset)
        offset += 4
        if offset + length > len(view):
            raise ValueError(f"a string of {length} bytes is cut off")
        found.append(bytes(view[offset : offset + length]))
        offset += length
    array = np.empty(len(found), dtype=np.object_)
    array[:] = found
    return array
