"""Transfer: stacks samples into one batch, and copies them to a GPU while it computes something else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any


def stack(tensors: Sequence[Any], device: str) -> Any:
    """Return tensors of one shape, stacked along a new first dimension, on ``device``."""
    import torch

    if not device.startswith("cuda") or tensors[0].is_cuda:
        return torch.stack(list(tensors)).to(device)
    first = tensors[0]
    batch = torch.empty((len(tensors), *first.shape), dtype=first.dtype, pin_memory=True)
    return to_device(torch.stack(list(tensors), out=batch), device)


def stack_arrays(arrays: Sequence[Any], device: str) -> Any:
    """Return numpy arrays of one shape and type, stacked along a new first dimension, as a tensor on ``device``.

    One call copies them all, also read-only ones; torch would synchronise all its threads for each large array, which
    takes longer than the copy. Returns None where they are not such arrays.
    """
    import numpy as np
    import torch

    first = arrays[0]
    if type(first) is not np.ndarray or not first.ndim:
        return None
    if len(set(map(type, arrays))) > 1 or len(set(map(len, arrays))) > 1:
        return None
    try:
        dtype = torch.from_numpy(np.empty(0, first.dtype)).dtype
        batch = torch.empty((len(arrays), *first.shape), dtype=dtype, pin_memory=device.startswith("cuda"))
        rows = batch.view(len(arrays) * len(first), *first.shape[1:])
        np.concatenate(arrays, out=rows.numpy(), casting="no")
    except (TypeError, ValueError):  # a dtype that torch does not have, or arrays that differ
        return None
    return to_device(batch, device)


def to_device(tensor: Any, device: str) -> Any:
    """Return a tensor on ``device``. It is copied to a GPU from pinned memory on a separate stream, for which the
    current stream waits.
    """
    import torch

    if not device.startswith("cuda") or tensor.is_cuda:
        return tensor.to(device)
    copying, computing = copy_stream(device), torch.cuda.current_stream(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    with torch.cuda.stream(copying):
        result = pinned.to(device, non_blocking=True)
    computing.wait_stream(copying)
    result.record_stream(computing)  # otherwise its memory could be reused while the computation reads it
    return result


@cache
def copy_stream(device: str) -> Any:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
