"""``serving pack``: a model folder as ``model.tar.gz``, the same bytes for the same files."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from serving.errors import ModelError
from serving.model.names import LEFTOVERS

# Names that no model needs: secrets first of all.
LEFT_OUT = (
    *(".env", ".env.*", "*.pyc", "__pycache__", ".venv", "node_modules", ".DS_Store", "._*", ".Trashes"),
    *(".git", ".gitignore", ".gitattributes", ".github", ".idea", ".vscode", ".ipynb_checkpoints"),
    *(".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".coverage"),
)
AT_THE_TOP = ("tests", "Dockerfile", ".dockerignore")  # left out only at the top: in a package they may be code
VENV = "pyvenv.cfg"  # a folder with this file is a virtual environment


def pack(folder: Path, archive: Path) -> tuple[list[str], list[str]]:
    """Write the archive, whole or not at all.

    Returns the names in it and those left out. Raises ModelError for links.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder")
    left_out: list[str] = []
    names = [name for name in members(folder, left_out) if (folder / name).resolve() != archive.resolve()]
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
    return names, left_out


def members(folder: Path, left_out: list[str]) -> list[str]:
    """Return the files below a folder in order of their names; those left out are added to ``left_out``.

    Raises ModelError for links and devices: the platform advises against links, and this server refuses those that lead
    out of the folder.
    """
    found: list[str] = []
    for entry in walk(folder, folder, left_out):
        if not stat.S_ISREG(entry.lstat().st_mode):
            raise ModelError(f"{entry} is a link or a device, which has no place in a model archive")
        found.append(entry.relative_to(folder).as_posix())
    left_out.sort()
    return sorted(found)


def walk(folder: Path, top: Path, left_out: list[str]) -> Iterator[Path]:
    """Yield all entries but folders, and nothing that is left out."""
    for entry in folder.iterdir():
        is_folder = entry.is_dir() and not entry.is_symlink()
        if is_left_out(entry, folder == top):
            left_out.append(entry.relative_to(top).as_posix() + "/" * is_folder)
        elif is_folder:
            yield from walk(entry, top, left_out)
        else:
            yield entry


def is_left_out(entry: Path, at_the_top: bool) -> bool:
    names = (*LEFT_OUT, *AT_THE_TOP) if at_the_top else LEFT_OUT
    known = entry.name.lower() in LEFTOVERS or any(fnmatchcase(entry.name, name) for name in names)
    return known or (entry / VENV).is_file()


def add(tar: tarfile.TarFile, folder: Path, name: str) -> None:
    """Add a file without what depends on the user and the time of packing."""
    path = folder / name
    info = tarfile.TarInfo(name)
    info.size = path.stat().st_size
    info.mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
    with path.open("rb") as file:
        tar.addfile(info, file)
