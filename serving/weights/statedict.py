"""load_weights: a state dict from a file, mapped rather than read, straight to where it is to be."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import ModelError
from serving.system import log
from serving.weights import check_weights

if TYPE_CHECKING:
    from torch import Tensor


def load_weights(path: Path | str, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of what ``torch.save`` wrote, by name, on ``device``.

    On the CPU they are the file's own pages: nothing is read until it is used, and replicas of one model share them.
    ``load_state_dict(weights, assign=True)`` keeps it that way. Raises ModelError for a file that holds more than
    weights, and OSError. Logs the bytes and the time that they took, once.
    """
    path = Path(path)
    check_weights(path)
    started = time.monotonic()
    found = load_safetensors(path, device) if path.suffix == ".safetensors" else load_saved(path, device)
    report(path, device, sum(tensor.nbytes for tensor in found.values()), started)
    return found


def report(path: Path, device: str, size: int, started: float) -> None:
    """Say how fast so many bytes of a file came to the device, once they are there."""
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


def load_safetensors(path: Path, device: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=device)
    except SafetensorError as exc:
        raise ModelError(f"{path.name} is no safetensors file: {exc}") from exc


def load_saved(path: Path, device: str) -> dict[str, Tensor]:
    import torch

    try:
        found = torch.load(path, map_location=device, weights_only=True, mmap=is_mappable(path))
    except pickle.UnpicklingError as exc:
        raise ModelError(f"{path.name} holds pickled objects that are no weights") from exc
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise ModelError(f"{path.name} holds something else than tensors by name")
    return found


def is_mappable(path: Path) -> bool:
    """Files of ``torch.save`` are zip archives, but for those of before 2020."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def wait_for(device: str) -> None:
    """Copies to a GPU go on after the call."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
