"""Risks: what in a model's folder may go wrong elsewhere, or run code."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from serving.model.modelfile import read_text
from serving.model.names import is_hidden
from serving.weights import is_torchscript, no_weights

REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@contextmanager
def watched_loads() -> Iterator[dict[Path, bool]]:
    """Context that records each file given to ``torch.load``, and whether all its loads were ``weights_only``."""
    import torch

    read: dict[Path, bool] = {}
    load = torch.load
    by_default = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)  # torch's default

    @functools.wraps(load)
    def watch(file: Any, *args: Any, **words: Any) -> Any:
        if isinstance(file, str | Path):
            path = Path(file).absolute()
            held = words.get("weights_only")
            read[path] = read.get(path, True) and (by_default if held is None else bool(held))
        return load(file, *args, **words)

    torch.load = watch  # type: ignore[assignment]
    try:
        yield read
    finally:
        torch.load = load


def pickles(root: Path, read: Mapping[Path, bool]) -> list[str]:
    """Return the risks of files that are empty or can run code, unless they were ``read`` as weights only."""
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(is_hidden(part) for part in path.relative_to(root).parts)
    ]
    names = [path for path in found if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib")]
    return [f"{path.relative_to(root)} {risk}" for path in names if (risk := risk_of(path, read.get(path.absolute())))]


def risk_of(path: Path, held: bool | None) -> str:
    """Return a file's risk, or "". ``held``: it was read as weights only; None where no load of it was seen."""
    if why := no_weights(path):
        return why
    if path.suffix in (".pkl", ".pickle", ".joblib"):
        return "is a pickle, which runs code when it is read"
    if path.suffix != ".bin" and is_torchscript(path):
        return "is a TorchScript program: take it only from whom you trust"
    if held is None:
        return "is a pickle that the load did not read: read it with weights_only, or use safetensors"
    return "" if held else "is read as a pickle, which runs code: read it with weights_only, or use safetensors"


def missing(file: Path | None) -> list[str]:
    """Return packages of a model's requirements that are not installed here."""
    if file is None:
        return []
    absent = []
    for line in read_text(file).splitlines():
        match = REQUIREMENT.match(line.strip())
        if match is not None and not has_package(match[0]):
            absent.append(match[0])
    return [f"{file.name} names what is not installed here: {', '.join(absent)}"] if absent else []


def has_package(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
