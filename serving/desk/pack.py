"""``serving pack``: a model folder as ``model.tar.gz``, the same bytes for the same files."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from serving.errors import ModelError
from serving.names import LEFTOVERS

LEFT_OUT = (
    *("__pycache__", ".git", ".ipynb_checkpoints", ".DS_Store", ".Trashes"),
    *(".pytest_cache", ".mypy_cache", ".ruff_cache"),
)


def pack(folder: Path, archive: Path) -> list[str]:
    """Write the archive, whole or not at all; gives the names in it. Raises ModelError for what would not survive."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder")
    names = [name for name in members(folder) if (folder / name).resolve() != archive.resolve()]
    if not names:
        raise ModelError(f"{folder} holds nothing to pack")
    partial = archive.with_name(f".{archive.name}.{os.getpid()}")
    try:
        with (
            partial.open("wb") as raw,
            gzip.GzipFile("", "wb", 9, raw, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in names:
                add(tar, folder, name)
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    return names


def members(folder: Path) -> Iterator[str]:
    """Files below a folder in order of their names, without what no model needs. Raises ModelError for links and
    whatever else is no file: the platform advises against them, and this server refuses those that leave."""
    for entry in sorted(folder.rglob("*"), key=lambda one: one.relative_to(folder).as_posix()):
        name = entry.relative_to(folder)
        if any(part in LEFT_OUT or part.startswith("._") or part.lower() in LEFTOVERS for part in name.parts):
            continue
        mode = entry.lstat().st_mode
        if stat.S_ISREG(mode):
            yield name.as_posix()
        elif not stat.S_ISDIR(mode):
            raise ModelError(f"{entry} is a link or a device, which has no place in a model archive")


def add(tar: tarfile.TarFile, folder: Path, name: str) -> None:
    """What depends on who packs, and when, stays out."""
    path = folder / name
    info = tarfile.TarInfo(name)
    info.size = path.stat().st_size
    info.mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
    with path.open("rb") as file:
        tar.addfile(info, file)
