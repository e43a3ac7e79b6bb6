"""From host memory to a GPU, while the GPU computes something else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any


def stack(tensors: Sequence[Any], device: str) -> Any:
    """Tensors of one shape, stacked along a new first dimension, on ``device``."""
    import torch

    if not device.startswith("cuda") or tensors[0].is_cuda:
        return torch.stack(list(tensors)).to(device)
    first = tensors[0]
    batch = torch.empty((len(tensors), *first.shape), dtype=first.dtype, pin_memory=True)
    return to_device(torch.stack(list(tensors), out=batch), device)


def to_device(tensor: Any, device: str) -> Any:
    """On a GPU through pinned memory and on a stream of its own; whatever is computed next waits for it."""
    import torch

    if not device.startswith("cuda") or tensor.is_cuda:
        return tensor.to(device)
    copying, computing = copy_stream(device), torch.cuda.current_stream(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    with torch.cuda.stream(copying):
        result = pinned.to(device, non_blocking=True)
    computing.wait_stream(copying)
    result.record_stream(computing)  # else its memory could be used again while the computation reads it
    return result


@cache
def copy_stream(device: str) -> Any:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
