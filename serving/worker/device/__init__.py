"""Devices: which one a worker uses. CUDA is first touched here, after the fork."""

from __future__ import annotations

from serving.errors import ModelError
from serving.worker.device.border import Device
from serving.worker.device.cuda import Cuda
from serving.worker.device.host import Host, Mps


def resolve(device: str) -> str:
    """Return ``cpu``, ``mps`` or ``cuda:N`` for ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.

    Raises ModelError where the machine has no such device.
    """
    import torch

    if device == "cpu":
        return "cpu"
    if device == "mps" or (device == "auto" and not torch.cuda.is_available()):
        if torch.backends.mps.is_available():
            return "mps"
        if device == "auto":
            return "cpu"
        raise ModelError("device is mps, but this machine has no such GPU")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if count else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        help = 'set SERVING_DEVICE=cpu, or device = "cpu" in the serving.toml of the model'
        raise ModelError(f"device is {device}, but this machine shows {count} CUDA devices: to run on the CPU {help}")
    return f"cuda:{index}"


def find_device(wanted: str) -> Device:
    """Return the device with a name that ``resolve`` takes, not yet opened. Raises ModelError where there is none."""
    name = resolve(wanted)
    if name == "cpu":
        return Host()
    return Mps() if name == "mps" else Cuda(name)
