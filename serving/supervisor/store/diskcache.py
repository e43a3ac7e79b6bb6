"""DiskCache: files below the system's temporary folder that outlive the server: unpacked models, and models' costs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from serving.system import private

ARCHIVE = ".archive"  # file with the archive's path, in the folder of its unpacked states
PARTIAL = ".partial-"  # prefix, before a pid, of a folder that is being filled or removed
KEPT = 30 * 24 * 3600.0  # seconds for which the cost of a model that is not loaded is kept
TRIES = 3  # attempts where others change the folder at the same time
LAST_WRITE = 0.05  # seconds for the last write of a killed process to arrive


class Cost(msgspec.Struct, frozen=True):
    """The memory of one replica in bytes: ``host`` once loaded, ``peak`` during the load, ``device`` on its GPU."""

    host: int
    peak: int
    device: int = 0

    def grown_to(self, other: Cost) -> Cost:
        return Cost(max(self.host, other.host), max(self.peak, other.peak), max(self.device, other.device))


class DiskCache:
    """The cache of one user, private to that user. Several servers may share it: files and folders appear in it
    complete, and what one server holds no other removes. The kernel releases the locks of a server that has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: dict[Path, int] = {}
        self._lock = threading.Lock()
        for name in ("models", "costs"):
            private.make_own(path / name)

    @classmethod
    def open(cls, parent: Path | None = None) -> DiskCache:
        """Return the user's cache. If its usual folder belongs to somebody else, a folder with a longer name is used,
        which later starts find again. Raises OSError, ModelError.
        """
        home = parent or Path(tempfile.gettempdir())
        name = f"serving-cache-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            (home / name).mkdir(mode=0o700)
        found = [path for path in (home / name, *sorted(home.glob(f"{name}-*"))) if private.is_private(path)]
        cache = cls(found[0] if found else Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home)))
        cache.sweep()
        return cache

    def sweep(self) -> None:
        """Remove what is of no use and nobody holds: half-unpacked models of servers that ended, models whose archive
        is gone, and old costs.
        """
        for partial in self.path.glob(f"models/*/{PARTIAL}*"):
            discard(partial)
        for note in self.path.glob(f"models/*/{ARCHIVE}"):
            with contextlib.suppress(OSError):
                if not Path(os.fsdecode(private.read_plain(note))).exists():
                    self._forget(note.parent)
        for file in (self.path / "costs").iterdir():
            with contextlib.suppress(OSError):
                if file.lstat().st_mtime < time.time() - KEPT:
                    file.unlink()

    def _forget(self, home: Path) -> None:
        for state in home.iterdir():
            if state.name != ARCHIVE:
                discard(state)
        if [entry.name for entry in home.iterdir()] == [ARCHIVE]:
            shutil.rmtree(home, ignore_errors=True)

    def home(self, archive: Path) -> Path:
        """Return the folder for the unpacked states of one archive, each under its digest."""
        path = os.fsencode(archive.resolve())
        home = self.path / "models" / hashlib.sha256(path).hexdigest()[:16]
        home.mkdir(mode=0o700, exist_ok=True)
        if not (home / ARCHIVE).exists():
            (home / ARCHIVE).write_bytes(path)
        return home

    def states(self, home: Path) -> list[Path]:
        """Return the unpacked states of one archive."""
        return [state for state in home.iterdir() if not state.name.startswith(".")]

    def hold(self, folder: Path) -> bool:
        """Keep other servers from removing an unpacked model; returns False where it is not there."""
        with self._lock:
            if folder in self._held and folder.is_dir():
                return True
            self._let_go(folder)
            fd = private.lock_folder(folder, alone=False)
            if fd is not None:
                self._held[folder] = fd
            return fd is not None

    def _let_go(self, folder: Path) -> None:
        fd = self._held.pop(folder, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Release all held folders."""
        with self._lock:
            for folder in list(self._held):
                self._let_go(folder)

    def begin(self, home: Path) -> Path:
        """Return a new folder to be filled, held. Raises OSError."""
        for _ in range(TRIES):
            partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{os.getpid()}-", dir=home))
            if self.hold(partial):
                return partial
        raise OSError("what is unpacked is taken away")

    def finish(self, partial: Path, folder: Path) -> None:
        """Rename a filled folder to its final name, held; another server's equal folder serves as well. Raises
        OSError.
        """
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:
            self.drop(partial)
            if not self.hold(folder):
                raise
        else:
            with self._lock:
                self._held[folder] = self._held.pop(partial)

    def drop(self, folder: Path) -> None:
        """Remove a folder, unless another server holds it."""
        with self._lock:
            self._let_go(folder)
        discard(folder)

    def recall(self, digest: str, device: str) -> Cost | None:
        """Return the cost of a replica of this artifact on a device of this kind, if it was ever loaded."""
        file = self._cost_file(digest, device)
        try:
            cost = msgspec.json.decode(private.read_plain(file), type=Cost)
            os.utime(file, follow_symlinks=False)
            return cost
        except (OSError, msgspec.DecodeError):
            return None

    def learn(self, digest: str, device: str, cost: Cost) -> None:
        """Store a cost. On a full disk only the cost is lost."""
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=self.path / "costs", delete=False) as file:
            file.write(msgspec.json.encode(cost))
            Path(file.name).replace(self._cost_file(digest, device))

    def _cost_file(self, digest: str, device: str) -> Path:
        return self.path / "costs" / f"{digest}-{device.partition(':')[0]}"


def discard(folder: Path) -> None:
    """Remove an unpacked model that nobody holds; others see it disappear at once."""
    fd = private.lock_folder(folder, alone=True)
    if fd is None:
        return
    gone = folder if folder.name.startswith(PARTIAL) else folder.with_name(f"{PARTIAL}{os.getpid()}-{folder.name}")
    with contextlib.suppress(OSError):
        folder.rename(gone)
        remove(gone)
    os.close(fd)


def remove(folder: Path) -> None:
    """Remove a folder, more than once if need be: a process that was killed while it wrote there may still add a
    file.
    """
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(LAST_WRITE)
