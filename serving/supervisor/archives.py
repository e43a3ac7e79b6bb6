"""Model archives, which are hostile until proven otherwise: gzipped tar or zip (a ``.mar`` is a zip).

``extract`` writes regular files and folders only; links are made last, from what was found, and only those that stay
inside. What comes out is either the whole archive or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast

from serving.errors import BadArchive

CHUNK = 1 << 20  # bytes
RATIO_FROM = 64 << 20  # bytes; below it no ratio makes a bomb
PARTIAL = ".partial-"  # then a pid: the name of a folder that this process is filling
LARGEST = 16 << 20  # bytes that tarfile may want at once; only a hostile header wants more
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,  # an encrypted zip, a loop of links
)
UNPLACEABLE = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class Limits:
    """``size`` in bytes and ``files`` of the extracted tree, ``ratio`` of its size to the archive's."""

    size: int
    files: int
    ratio: float


@dataclass(slots=True)
class Tree:
    """A folder being filled, and what has been spent."""

    root: Path
    limits: Limits
    packed: int
    size: int = 0
    files: int = 0
    links: list[tuple[Path, str]] = field(default_factory=list)

    def place(self, name: str) -> Path:
        """Where a member belongs. Raises BadArchive for a name that would leave the folder."""
        self.files += 1
        if self.files > self.limits.files:
            raise BadArchive(f"the archive holds more than {self.limits.files} entries")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise BadArchive(f"the archive's entry {name[:100]!r} would leave its folder")
        return self.root / path

    def folder(self, path: Path) -> None:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def file(self, path: Path, source: IO[bytes], executable: bool) -> None:
        self.folder(path.parent)
        path.unlink(missing_ok=True)
        with path.open("xb") as target:
            while chunk := source.read(CHUNK):
                self.spend(len(chunk))
                target.write(chunk)
        path.chmod(0o755 if executable else 0o644)

    def spend(self, n: int) -> None:
        self.size += n
        if self.size > self.limits.size:
            raise BadArchive(f"the archive unpacks to more than {self.limits.size} bytes")
        if self.size > RATIO_FROM and self.size > self.limits.ratio * self.packed:
            raise BadArchive(f"the archive unpacks to more than {self.limits.ratio:g} times its size")

    def link(self, path: Path, target: str) -> None:
        self.links.append((path, target))

    def finish(self) -> None:
        """Make the links. Raises BadArchive for one that leads out of the folder."""
        linked = {path for path, _ in self.links}
        for path, target in self.links:
            if not linked.isdisjoint(path.parents):
                raise BadArchive(f"the archive's link {path.name[:100]!r} lies behind another link")
            self.folder(path.parent)
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        root = self.root.resolve()
        for path, target in self.links:
            if not path.resolve().is_relative_to(root):
                raise BadArchive(f"the archive's link {path.name[:100]!r} to {target[:100]!r} leaves its folder")


def extract(archive: Path, folder: Path, limits: Limits) -> None:
    """Unpack ``archive`` so that ``folder`` is there whole, or not at all. Raises BadArchive; OSError as it comes.

    ``folder``'s parent exists and is private. A folder that is there already is left as it is.
    """
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{os.getpid()}-", dir=folder.parent))
    try:
        tree = Tree(partial, limits, archive.stat().st_size)
        try:
            unpack(archive, tree)
            tree.finish()
        except BROKEN as exc:
            raise BadArchive(f"{archive.name} is damaged or no archive: {type(exc).__name__}: {exc}") from exc
        except OSError as exc:
            if exc.errno not in UNPLACEABLE:
                raise
            raise BadArchive(f"{archive.name} holds a name that cannot be: {os.strerror(exc.errno)}") from exc
        partial.chmod(0o755)
        with contextlib.suppress(FileExistsError):
            move(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def move(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        # another server of this user was quicker


def unpack(archive: Path, tree: Tree) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            unpack_zip(zipped, tree)
        return
    with archive.open("rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raise BadArchive(f"{archive.name} is neither a gzipped tar nor a zip")
        raw.seek(0)
        with Modest(fileobj=raw) as modest:
            stream = cast("IO[bytes]", modest)
            unpack_tar(stream, tree)
            drain(stream, tree)


class Modest(gzip.GzipFile):
    """A stream from which nothing is read into memory as a whole because a header says so."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= LARGEST:
            raise BadArchive("the archive holds an oversized header")
        return super().read(size)


def drain(stream: IO[bytes], tree: Tree) -> None:
    """Read to the end, where the checksum shows whether something was cut off."""
    while chunk := stream.read(CHUNK):
        tree.spend(len(chunk))


def unpack_tar(stream: IO[bytes], tree: Tree) -> None:
    with tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as tar:
        for member in members(tar):
            path = tree.place(member.name)
            if member.isdir():
                tree.folder(path)
            elif member.isreg():
                source = tar.extractfile(member)
                assert source is not None
                tree.file(path, source, bool(member.mode & stat.S_IXUSR))
                if path.stat().st_size != member.size:
                    raise BadArchive(f"the archive ends inside {member.name[:100]!r}")
            elif member.issym():
                tree.link(path, member.linkname)
            elif member.islnk():
                # A second name of a file in the archive: a relative link says the same and cannot be written through.
                tree.link(path, os.path.relpath(tree.root / member.linkname, path.parent))
            else:
                raise BadArchive(f"the archive's entry {member.name[:100]!r} is a device or a pipe")


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other, without keeping a list that a hostile archive could grow."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]


def unpack_zip(zipped: zipfile.ZipFile, tree: Tree) -> None:
    for info in zipped.infolist():
        path = tree.place(info.filename)
        mode = info.external_attr >> 16
        if info.is_dir():
            tree.folder(path)
        elif stat.S_ISLNK(mode):
            tree.link(path, zipped.read(info).decode("utf-8", "replace") if info.file_size < 4096 else "/")
        elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
            with zipped.open(info) as source:
                tree.file(path, source, bool(mode & stat.S_IXUSR))
        else:
            raise BadArchive(f"the archive's entry {info.filename[:100]!r} is a device or a pipe")
