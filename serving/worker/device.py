"""The border to the hardware: which device a worker uses. CUDA is first touched here, after the fork."""

from __future__ import annotations

import functools
import os

from serving import gpus
from serving.errors import ModelError
from serving.gpus.driver import Driver

CONTEXT = 512 << 20  # bytes; what a CUDA context takes where it cannot be measured


def resolve(device: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` to ``cpu`` or ``cuda:N``. Raises ModelError for an absent one."""
    import torch

    if device == "cpu":
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if count else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise ModelError(f"device is {device}, but this machine shows {count} CUDA devices")
    return f"cuda:{index}"


def prepare(device: str, threads: int) -> None:
    """Set up torch in a worker: ``threads`` for one operation on the CPU, and the current CUDA device."""
    import torch

    torch.set_num_threads(threads)
    if device != "cpu":
        torch.cuda.set_device(device)


def held(device: str) -> int:
    """Bytes that this process holds on its GPU; 0 on the CPU."""
    import torch

    if device == "cpu":
        return 0
    measured = (driver().held(device) or {}).get(os.getpid())  # a container may hide from NVML which process is which
    return measured or torch.cuda.memory_reserved(device) + CONTEXT


@functools.cache
def driver() -> Driver:
    """Of this process, which sees what ``CUDA_VISIBLE_DEVICES`` shows it."""
    return gpus.find()
