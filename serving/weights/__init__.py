"""Weights: model files on disk, read without running code in them."""

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

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.load obeys it whatever its caller passes
# Members of a torch.export archive that are unpickled or executed on load, not read as weights.
UNSAFE_MEMBERS = ("/custom_obj_", "/opaque_obj_", "/aotinductor/")
POINTER = b"version https://git-lfs.github.com/spec/"
ALLOW = "`allow_pickle = true` in serving.toml loads it all the same"


def no_weights(path: Path) -> str:
    """Return why a file cannot hold weights, as a phrase to follow its name; "" where it may."""
    with path.open("rb") as file:
        start = file.read(len(POINTER))
    if not start:
        return "is empty"
    return "is a Git LFS pointer, not the weights: git lfs pull" if start == POINTER else ""


def check_weights(path: Path) -> None:
    """Raise ModelError for a file that cannot hold weights. Raises OSError too."""
    if why := no_weights(path):
        raise ModelError(f"{path.name} {why}")


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, which contains code, unlike one of ``torch.save``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def load_torchscript(path: Path, device: str) -> Any:
    """Load a TorchScript module on ``device``, in evaluation mode. Raises RuntimeError for another file."""
    import torch

    with warnings.catch_warnings():
        # torch warns authors when they write such a file; an operator cannot do anything about it.
        warnings.simplefilter("ignore", DeprecationWarning)
        if device.startswith("cuda"):
            # Otherwise each of the first batch sizes is compiled anew, while requests wait.
            torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
        return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]


def load_exported(path: Path, allow_pickle: bool) -> Any:
    """Load the ExportedProgram of a ``.pt2`` file. Raises ModelError for one with pickled objects, unless allowed.

    ``torch.export.load`` unpickles sample inputs and other pickled members; here only weights pass. The program itself
    is still code: torch calls the functions that it names.
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
        with variable(FORCE, "1"):  # meanwhile every torch.load of this process loads weights only
            return torch.export.load(path)
    except pickle.UnpicklingError as exc:
        raise ModelError(f"{path.name} holds pickled objects that are no weights: {ALLOW}") from exc


@contextlib.contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable within a context, for settings that torch reads from there only."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
