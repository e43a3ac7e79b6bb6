"""Archives: unpacks model archives, which are hostile until proven otherwise: gzipped tar or zip (a ``.mar`` is a zip).

A separate program that imports the standard library alone. Each archive is opened in a process that runs this file with
little memory and limited time, so that the worst that an archive can do is to end that process. ``unpack`` writes
regular files and folders only; links are created last, and only those that stay inside.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import resource
import signal
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

TYPE_CHECKING = False  # every archive pays for the imports, and importing typing takes as long as this file
if TYPE_CHECKING:
    from typing import IO, NoReturn

CHUNK = 1 << 20  # bytes
RATIO_FROM = 64 << 20  # bytes; smaller trees are no bombs whatever the ratio
LARGEST = 1 << 20  # bytes that tarfile may read at once; only a hostile header makes it read more
HEADERS = 2 << 20  # bytes of all headers of one member
LINK = 4096  # bytes of a link's target, PATH_MAX
END, END64, LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"  # APPNOTE.TXT 4.3.14 to 4.3.16
END_SIZE, END64_SIZE, LOCATOR64_SIZE = 22, 56, 20  # bytes
COMMENT = 65535  # bytes after the end record of a zip at most
ENTRY = 1024  # bytes of memory for one entry of a zip; its name and extra fields in the table take less than half of it
ROOM = 96 << 20  # bytes of memory besides the entries of a zip
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
# Errors of the machine; any other OSError comes from a name in the archive.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EACCES}


class Refused(Exception):
    """An archive that is refused, with the reason for its owner."""


class Limits:
    """The limits of one archive: ``size`` in bytes and ``files`` of the extracted tree, ``ratio`` of its size to the
    archive's.
    """

    def __init__(self, size: int, files: int, ratio: float) -> None:
        self.size = size
        self.files = files
        self.ratio = ratio


class Tree:
    """A folder that is being filled, with what it has used of its limits. ``packed`` is the archive's size in bytes;
    ``watch`` is called now and then and may raise.
    """

    def __init__(self, root: Path, limits: Limits, packed: int, watch: Callable[[], None] = lambda: None) -> None:
        self.root = root
        self.limits = limits
        self.packed = packed
        self.size = 0
        self.files = 0
        self._watch = watch
        self._links: dict[Path, str] = {}
        self._twins: dict[Path, Path] = {}

    def place(self, name: str) -> Path:
        """Return the path of a member. Raises Refused for a name that would leave the folder."""
        self._watch()
        self.files += 1
        if self.files > self.limits.files:
            raise Refused(f"the archive holds more than {self.limits.files} entries")
        return self._inside(name, f"entry {name[:100]!r} would leave its folder")

    def _inside(self, name: str, problem: str) -> Path:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise Refused(f"the archive's {problem}")
        return self.root / path

    def folder(self, path: Path) -> None:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def file(self, path: Path, source: IO[bytes], executable: bool) -> None:
        self.folder(path.parent)
        path.unlink(missing_ok=True)
        self._links.pop(path, None)  # the last of several entries with one name counts
        self._twins.pop(path, None)
        with path.open("xb") as target:
            while chunk := source.read(CHUNK):
                self.spend(len(chunk))
                target.write(chunk)
        path.chmod(0o755 if executable else 0o644)

    def spend(self, n: int) -> None:
        self._watch()
        self.size += n
        if self.size > self.limits.size:
            raise Refused(f"the archive unpacks to more than {self.limits.size} bytes")
        if self.size > RATIO_FROM and self.size > self.limits.ratio * self.packed:
            raise Refused(f"the archive unpacks to more than {self.limits.ratio:g} times its size")

    def link(self, path: Path, target: str) -> None:
        if not target or len(os.fsencode(target)) >= LINK:
            raise Refused(f"the archive's link {path.name[:100]!r} to {target[:100]!r} cannot be")
        self._links[path] = target

    def twin(self, path: Path, name: str) -> None:
        """Add a hard link to a file in the archive, as a relative symbolic link, which cannot be written through."""
        other = self._inside(name, f"link {path.name[:100]!r} to {name[:100]!r} leaves its folder")
        other = self._twins.get(other, other)
        if other != path:  # tar writes a file that is listed twice as a link to itself
            self._twins[path] = other
            self.link(path, os.path.relpath(other, path.parent))

    def finish(self) -> None:
        """Create the links. Raises Refused for one that leads out of the folder."""
        for path, target in self._links.items():
            if not self._links.keys().isdisjoint(path.parents):
                raise Refused(f"the archive's link {path.name[:100]!r} lies behind another link")
            self.folder(path.parent)
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        root = self.root.resolve()
        for path, target in self._links.items():
            if not path.resolve().is_relative_to(root):
                raise Refused(f"the archive's link {path.name[:100]!r} to {target[:100]!r} leaves its folder")


def unpack(
    archive: IO[bytes], folder: Path, name: str, limits: Limits, watch: Callable[[], None] = lambda: None
) -> None:
    """Fill ``folder``, which is empty and private, from an archive called ``name``. Raises Refused, or the OSError
    where the machine is at fault. What has been written until then stays.
    """
    tree = Tree(folder, limits, os.fstat(archive.fileno()).st_size, watch)
    try:
        read(archive, name, tree)
        tree.finish()
    except MemoryError:
        raise Refused(f"{name} takes more memory to read than an archive may") from None
    except BROKEN as exc:
        # The message about a loop of links has the whole path.
        reason = str(exc).replace(str(folder), "") or "it ends too early"
        raise Refused(f"{name} is damaged or no archive: {reason}") from exc
    except OSError as exc:
        if exc.errno in MACHINE:
            raise
        if exc.errno == errno.EFBIG:
            raise Refused(f"the archive unpacks to more than {limits.size} bytes") from exc
        raise Refused(f"{name} holds a name that cannot be: {os.strerror(exc.errno or 0)}") from exc


def read(archive: IO[bytes], name: str, tree: Tree) -> None:
    if zipfile.is_zipfile(archive):
        check_table(archive, tree.limits.files)
        with zipfile.ZipFile(archive) as zipped:
            unpack_zip(zipped, tree)
        return
    archive.seek(0)
    if archive.read(2) != b"\x1f\x8b":
        raise Refused(f"{name} is neither a gzipped tar nor a zip")
    archive.seek(0)
    with Modest(fileobj=archive) as modest:
        unpack_tar(modest, tree)
        drain(modest, tree)


class Modest(gzip.GzipFile):
    """A gzip stream that never reads a large block into memory because a header asks for it.

    ``allowance`` is the number of bytes of headers that may still be read; None while a file's content is read.
    """

    allowance: int | None = HEADERS

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= LARGEST:
            raise Refused("the archive holds an oversized header")
        data = super().read(size)
        if self.allowance is not None:
            self.allowance -= len(data)
            if self.allowance < 0:
                raise Refused("the archive holds an oversized header")
        return data


class Member(tarfile.TarInfo):
    """A tar member that refuses sparse files: tarfile would read their map, which is as long as the archive says."""

    def _refuse(self, *_: object) -> NoReturn:
        raise Refused(f"the archive's entry {self.name[:100]!r} is a sparse file: pack it as a whole one")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


def drain(stream: Modest, tree: Tree) -> None:
    """Read to the end, where the checksum shows whether something was cut off."""
    stream.allowance = None
    while chunk := stream.read(CHUNK):
        tree.spend(len(chunk))


def unpack_tar(stream: Modest, tree: Tree) -> None:
    with tarfile.open(fileobj=stream, mode="r:", errorlevel=2, tarinfo=Member) as tar:
        for member in members(tar, stream):
            path = tree.place(member.name)
            if member.isdir():
                tree.folder(path)
            elif member.isreg():
                source = tar.extractfile(member)
                assert source is not None
                tree.file(path, source, bool(member.mode & stat.S_IXUSR))
                if path.stat().st_size != member.size:
                    raise Refused(f"the archive ends inside {member.name[:100]!r}")
            elif member.issym():
                tree.link(path, member.linkname)
            elif member.islnk():
                tree.twin(path, member.linkname)
            else:
                raise Refused(f"the archive's entry {member.name[:100]!r} is a device or a pipe")


def members(tar: tarfile.TarFile, stream: Modest) -> Iterator[tarfile.TarInfo]:
    """Yield the members, without the list that tarfile keeps and a hostile archive could grow."""
    while True:
        stream.allowance = HEADERS
        member = tar.next()
        stream.allowance = None
        if member is None:
            return
        yield member
        tar.members.clear()  # type: ignore[attr-defined]


def check_table(archive: IO[bytes], files: int) -> None:
    """Check a zip's end record before zipfile creates an object for each entry. Raises Refused."""
    size = archive.seek(0, os.SEEK_END)
    start = archive.seek(max(0, size - END_SIZE - COMMENT - LOCATOR64_SIZE - END64_SIZE))
    tail = archive.read(size - start)
    at = tail.rfind(END, 0, len(tail) - END_SIZE + len(END))
    if at < 0:
        raise Refused("the archive is a zip without an end")
    entries, table = struct.unpack_from("<HL", tail, at + 10)
    at64 = at - LOCATOR64_SIZE - END64_SIZE
    if at64 >= 0 and tail[at64 : at64 + 4] == END64 and tail[at - LOCATOR64_SIZE :][:4] == LOCATOR64:
        entries, table = struct.unpack_from("<QQ", tail, at64 + 32)
    if entries > files or table > files * ENTRY // 2:
        raise Refused(f"the archive holds more than {files} entries")


def unpack_zip(zipped: zipfile.ZipFile, tree: Tree) -> None:
    for info in zipped.infolist():
        path = tree.place(info.filename)
        mode = info.external_attr >> 16
        if info.is_dir():
            tree.folder(path)
        elif stat.S_ISLNK(mode):
            tree.link(path, zipped.read(info).decode("utf-8", "replace") if info.file_size < LINK else "/")
        elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
            with zipped.open(info) as source:
                tree.file(path, source, bool(mode & stat.S_IXUSR))
        else:
            raise Refused(f"the archive's entry {info.filename[:100]!r} is a device or a pipe")


# The program.


def confine(limits: Limits, seconds: int) -> None:
    """Limit the resources of this process, whatever it reads."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * os.sysconf("SC_PAGE_SIZE") + ROOM + ENTRY * limits.files
    for kind, amount in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, limits.size),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = amount if hard == resource.RLIM_INFINITY else min(hard, amount)
        resource.setrlimit(kind, (most, most))
    os.nice(5)  # serving has priority


def main(words: list[str]) -> None:
    """Unpack one archive; ``words`` are ``ARCHIVE_FD REPORT_FD FOLDER NAME SECONDS SIZE FILES RATIO``. The result is
    written to the report's descriptor: ``done``, ``refused`` and the reason, or ``errno`` and its number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    archive_fd, report_fd, folder, name, seconds, size, files, ratio = words
    limits, parent = Limits(int(size), int(files), float(ratio)), os.getppid()

    def watch() -> None:
        if os.getppid() != parent:
            sys.exit(1)  # the parent is gone, so nobody waits for the result

    report = "done"
    confine(limits, int(seconds))
    try:
        with open(int(archive_fd), "rb") as archive:
            unpack(archive, Path(folder), name, limits, watch)
    except Refused as exc:
        report = f"refused {exc}"
    except OSError as exc:
        report = f"errno {exc.errno or 0}"
    os.write(int(report_fd), report.encode("utf-8", "backslashreplace"))
