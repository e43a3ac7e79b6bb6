"""State dict: load_weights, which maps a file's tensors into memory and places them on a device."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import ModelError
from serving.system import log
from serving.weights import check_weights

if TYPE_CHECKING:
    from torch import Tensor

    from serving.weights.bus import Bus
    from serving.weights.ring import Ring


def load_weights(path: Path | str, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` or ``torch.save`` file by name, on ``device``.

    On the CPU they are the file's own pages: nothing is read until used, and replicas of one model share them.
    ``load_state_dict(weights, assign=True)`` keeps it that way. To a GPU they go through pinned memory. Raises
    ModelError for a file with more than weights, and OSError. Logs the bytes and the seconds once.
    """
    path = Path(path)
    check_weights(path)
    started = time.monotonic()
    found = load_safetensors(path, device) if path.suffix == ".safetensors" else load_saved(path, device)
    report(path, device, sum(tensor.nbytes for tensor in found.values()), started)
    return found


def report(path: Path, device: str, size: int, started: float) -> None:
    """Log how fast ``size`` bytes of a file reached the device, once they are there."""
    wait_for(device)
    seconds = time.monotonic() - started
    log.info(
        "weights are loaded",
        file=path.name,
        device=device,
        bytes=size,
        seconds=round(seconds, 4),
        gb_per_s=round(size / seconds / 1e9, 2),
    )


def load_safetensors(path: Path, device: str, bus: Bus | None = None, ring: Ring | None = None) -> dict[str, Tensor]:
    """Load a safetensors file. ``bus`` and ``ring`` are for tests; by default a GPU gets its own."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (bus := bus or find_bus(device)) is not None:
        from serving.weights.todevice import bring_safetensors

        if (found := quickly(bring_safetensors, path, bus, ring)) is not None:
            return found
    try:
        return load_file(path, device=device)
    except SafetensorError as exc:
        raise ModelError(f"{path.name} is no safetensors file: {exc}") from exc


def load_saved(path: Path, device: str, bus: Bus | None = None, ring: Ring | None = None) -> dict[str, Tensor]:
    """Load a ``torch.save`` file. ``bus`` and ``ring`` are as for ``load_safetensors``."""
    if is_mappable(path) and (bus := bus or find_bus(device)) is not None:
        from serving.weights.todevice import bring_saved

        if (found := quickly(partial(bring_saved, map_saved(path, "cpu")), path, bus, ring)) is not None:
            return found
    return map_saved(path, device)


def map_saved(path: Path, device: str) -> dict[str, Tensor]:
    """Read a file of ``torch.save``, mapped where it can be. Raises ModelError for other than tensors."""
    import torch

    try:
        found = torch.load(path, map_location=device, weights_only=True, mmap=is_mappable(path))
    except pickle.UnpicklingError as exc:
        raise ModelError(f"{path.name} holds pickled objects that are no weights") from exc
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise ModelError(f"{path.name} holds something else than tensors by name")
    return found


def find_bus(device: str) -> Bus | None:
    """Return the bus to a GPU; None for other devices, which share the host's memory."""
    if not device.startswith("cuda"):
        return None
    from serving.weights.bus import Cuda

    return Cuda(device)


def quickly(
    bring: Callable[[Path, Bus, Ring], dict[str, Tensor] | None], path: Path, bus: Bus, ring: Ring | None
) -> dict[str, Tensor] | None:
    """Return the result of ``bring``, or None where no memory can be pinned."""
    from serving.weights.ring import Ring, Unpinned

    try:
        return bring(path, bus, ring or Ring())
    except Unpinned as exc:
        log.warning("weights are loaded without pinned memory, at a part of the speed", file=path.name, error=str(exc))
    return None


def is_mappable(path: Path) -> bool:
    """Return whether a ``torch.save`` file is a zip archive, as all are since 2020."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def wait_for(device: str) -> None:
    """Wait for copies to a GPU, which continue after the call that starts them."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
