"""Model files on disk, read without running what is in them."""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import ModelError

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.load obeys it whatever its caller asks for
# Members of a torch.export archive that are unpickled or executed on load, not read as weights.
UNSAFE_MEMBERS = ("/custom_obj_", "/opaque_obj_", "/aotinductor/")
POINTER = b"version https://git-lfs.github.com/spec/"
ALLOW = "`allow_pickle = true` in serving.toml loads it all the same"


def no_weights(path: Path) -> str:
    """Why a file cannot hold any weights, as what comes behind its name; "" where it may."""
    with path.open("rb") as file:
        start = file.read(len(POINTER))
    if not start:
        return "is empty"
    return "is a Git LFS pointer, not the weights: git lfs pull" if start == POINTER else ""


def check_weights(path: Path) -> None:
    """Raises ModelError for a file that stands where weights should be, and OSError."""
    if why := no_weights(path):
        raise ModelError(f"{path.name} {why}")


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
        if device.startswith("cuda"):
            # Else kernels are made anew for each of the first batch sizes, while requests wait.
            torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
        return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]


def load_exported(path: Path, allow_pickle: bool) -> Any:
    """The ExportedProgram of a ``.pt2`` file. Raises ModelError for one that holds pickled objects, unless allowed.

    ``torch.export.load`` unpickles its sample inputs and whatever the archive says is pickled; here that is held to
    weights. The program itself is code all the same: torch calls the functions that it names.
    """
    import torch

    if allow_pickle:
        return torch.export.load(path)
    # torch finds members whatever their case, so its own reader lists them and case is ignored here.
    names = torch._C.PyTorchFileReader(str(path)).get_all_records()
    unsafe = [name for name in names if any(part in f"/{name.lower()}" for part in UNSAFE_MEMBERS)]
    if unsafe:
        raise ModelError(f"{path.name} holds {unsafe[0]}, which runs code when loaded: {ALLOW}")
    try:
        with variable(FORCE, "1"):  # every torch.load of this process is held to weights for a while
            return torch.export.load(path)
    except pickle.UnpicklingError as exc:
        raise ModelError(f"{path.name} holds pickled objects that are no weights: {ALLOW}") from exc


@contextlib.contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """For what torch reads from the environment alone."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
