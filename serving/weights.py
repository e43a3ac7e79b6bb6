"""Model files on disk, read without running what is in them."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any


def is_torchscript(path: Path) -> bool:
    """A TorchScript archive carries its code; a file of ``torch.save`` does not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def load_torchscript(path: Path, device: str) -> Any:
    """The module of a TorchScript file on ``device``, in evaluation mode. Raises RuntimeError for another file."""
    import torch

    with warnings.catch_warnings():
        # Its users hear from torch when they write such a file; whoever serves one cannot do anything about it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
