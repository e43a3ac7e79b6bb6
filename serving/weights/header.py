"""Header: the tensors that a safetensors header lists, checked against the file before use."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import torch

from serving.errors import ModelError

LARGEST = 100_000_000  # bytes of a header; safetensors has the same limit
HIGHEST = 1 << 62  # of sizes and offsets that torch takes
METADATA = "__metadata__"
KINDS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
"""torch's names of safetensors' dtypes. Those smaller than a byte are left to safetensors."""

Natural = Annotated[int, msgspec.Meta(ge=0, le=HIGHEST)]


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One tensor's entry. The offsets count from the end of the header."""

    dtype: str
    shape: list[Natural]
    data_offsets: tuple[Natural, Natural]


class Described(NamedTuple):
    """One tensor; ``offset`` is the place of its first byte in the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


def read_header(file: int, path: Path) -> list[Described] | None:
    """Return the tensors of an open file, or None where one has a dtype that is not in ``KINDS``.

    Raises ModelError, which names ``path``, for an invalid header or one that does not fit the file, and OSError.
    """
    try:
        entries, start = parse(file)
        check_places(entries, os.fstat(file).st_size - start)
        found = [described(name, entry, start) for name, entry in entries.items()]
        known = [one for one in found if one is not None]
        return known if len(known) == len(found) else None
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{path.name} is no safetensors file: {exc}") from exc


def parse(file: int) -> tuple[dict[str, Entry], int]:
    """Return the header's entries and the offset of its end. Raises ValueError and RecursionError."""
    length = int.from_bytes(read_exactly(file, 8, 0), "little")
    if length > min(LARGEST, os.fstat(file).st_size - 8):
        raise ValueError(f"a header of {length} bytes")
    found = json.loads(read_exactly(file, length, 8), object_pairs_hook=unique)
    if not isinstance(found, dict):
        raise ValueError("the header is no object")
    msgspec.convert(found.pop(METADATA, {}), dict[str, str] | None)
    return msgspec.convert(found, dict[str, Entry]), 8 + length


def read_exactly(file: int, size: int, offset: int) -> bytes:
    """Return ``size`` bytes. Raises ValueError where the file ends earlier."""
    data = os.pread(file, size, offset)
    if len(data) != size:
        raise ValueError(f"{size} bytes at {offset} are not all there")
    return data


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the header has a name twice")
    return found


def check_places(entries: dict[str, Entry], size: int) -> None:
    """Raise ValueError unless the tensors fill all of the ``size`` bytes, one behind the other."""
    end = 0
    for start, stop in sorted(entry.data_offsets for entry in entries.values()):
        if start != end or stop < start:
            raise ValueError(f"a tensor from byte {start} to {stop}, where the one before ends at {end}")
        end = stop
    if end != size:
        raise ValueError(f"tensors of {end} bytes in {size}")


def described(name: str, entry: Entry, start: int) -> Described | None:
    """Return one tensor, or None for a dtype that is not in ``KINDS``.

    Raises ValueError where shape and bytes do not fit.
    """
    dtype: torch.dtype | None = getattr(torch, KINDS.get(entry.dtype, ""), None)
    if dtype is None:
        return None
    first, last = entry.data_offsets
    if math.prod(entry.shape) * dtype.itemsize != last - first:
        raise ValueError(f"{last - first} bytes for {entry.dtype} of shape {entry.shape}")
    return Described(name, dtype, tuple(entry.shape), start + first)
