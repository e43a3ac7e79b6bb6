"""Packages: programs compiled ahead of time by AOTInductor, ``.pt2`` files with native code."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from serving.errors import ModelError
from serving.weights import ALLOW, variable

CODE = "/aotinductor/"
ROWS = 2  # rows that a single one is made
MODEL = "model"  # the default name of the model in a package
# Makes the code check its inputs' shapes; without it a shorter input is read beyond its end.
CHECK = "AOTI_RUNTIME_CHECK_INPUTS"


def is_package(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(CODE in f"/{name.lower()}" for name in archive.namelist())


def load_package(path: Path, device: str, allow_pickle: bool) -> Packaged:
    """Load the program on the device that it was compiled for.

    Raises ModelError for another device, or unless allowed.
    """
    if not allow_pickle:
        raise ModelError(f"{path.name} holds compiled code, which can do anything: {ALLOW}")
    from torch._C._aoti import AOTIModelPackageLoader
    from torch._inductor import aoti_load_package

    kind, _, index = device.partition(":")
    os.environ.setdefault(CHECK, "1")
    # torch unpacks it and, in a killed process, would leave the files behind; once mapped they are not needed.
    with tempfile.TemporaryDirectory() as folder, variable("TMPDIR", folder):
        metadata: dict[str, str] = AOTIModelPackageLoader.load_metadata_from_package(str(path), MODEL)  # type: ignore[attr-defined]
        made_for = metadata.get("AOTI_DEVICE_KEY", kind)
        if made_for != kind:
            raise ModelError(f"{path.name} was compiled for {made_for}, but its device is {device}")
        return Packaged(aoti_load_package(str(path), device_index=int(index or -1)))


class Packaged:
    """The program. A single row is doubled where the program was compiled for two or more rows.

    To ``torch.export`` 1 is a special size, even where the dimension is declared dynamic.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._takes_one = True

    def __call__(self, *args: Any) -> Any:
        if any(one.shape[:1] != (1,) for one in args):
            return self._call(*args)
        if self._takes_one:
            try:
                return self._call(*args)
            except RuntimeError:
                outputs = self._twice(args)  # any other error is raised again
                self._takes_one = False
                return outputs
        return self._twice(args)

    def _twice(self, args: Any) -> Any:
        return first_row(self._call(*(one.expand(ROWS, *one.shape[1:]).contiguous() for one in args)))


def first_row(outputs: Any) -> Any:
    """Return the outputs without the second of two rows; whatever has not two rows is no output by row, and stays."""
    if isinstance(outputs, dict):
        return {name: first_row(one) for name, one in outputs.items()}
    if isinstance(outputs, tuple | list):
        rows = [first_row(one) for one in outputs]
        return outputs._make(rows) if hasattr(outputs, "_make") else type(outputs)(rows)
    return outputs[:1] if tuple(getattr(outputs, "shape", ()))[:1] == (ROWS,) else outputs
