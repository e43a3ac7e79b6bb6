"""DiskCache: what outlives the server below the system's temporary folder: unpacked models, and what models cost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import msgspec

from serving.supervisor.archives import PARTIAL

ARCHIVE = ".archive"  # in the home of an archive's unpacked states: its path
KEPT = 30 * 24 * 3600.0  # seconds for which the cost of a model that nobody loads is remembered


class Cost(msgspec.Struct, frozen=True):
    """Memory of one replica in bytes: ``host`` once loaded, ``peak`` on the way there, ``device`` on its GPU."""

    host: int
    peak: int
    device: int = 0

    def grown_to(self, other: Cost) -> Cost:
        return Cost(max(self.host, other.host), max(self.peak, other.peak), max(self.device, other.device))


class DiskCache:
    """Private to the user. Several servers may share it: whatever appears in it appears whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("models", "costs"):
            (path / name).mkdir(exist_ok=True)

    @classmethod
    def open(cls, parent: Path | None = None) -> DiskCache:
        """The user's cache folder; a fresh one where that name belongs to somebody else. Raises OSError."""
        path = (parent or Path(tempfile.gettempdir())) / f"serving-cache-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            path = Path(tempfile.mkdtemp(prefix="serving-cache-", dir=parent))
        cache = cls(path)
        cache.sweep()
        return cache

    def sweep(self) -> None:
        """Remove what nobody will ask for. Before this server unpacks or learns anything.

        That is the half-unpacked models of servers that ended in the middle, the models whose archive is gone, and
        what it once took to load something.
        """
        for partial in self.path.glob(f"models/*/{PARTIAL}*"):
            pid = partial.name.removeprefix(PARTIAL).partition("-")[0]
            # One with our pid is of the container's last life.
            if pid == str(os.getpid()) or not Path("/proc", pid).exists():
                shutil.rmtree(partial, ignore_errors=True)
        for note in self.path.glob(f"models/*/{ARCHIVE}"):
            with contextlib.suppress(OSError):
                if not Path(os.fsdecode(note.read_bytes())).exists():
                    shutil.rmtree(note.parent, ignore_errors=True)
        for file in (self.path / "costs").iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < time.time() - KEPT:
                    file.unlink()

    def home(self, archive: Path) -> Path:
        """The folder for the unpacked states of one archive, each under its digest."""
        path = os.fsencode(archive.resolve())
        home = self.path / "models" / hashlib.sha256(path).hexdigest()[:16]
        home.mkdir(exist_ok=True)
        if not (home / ARCHIVE).exists():
            (home / ARCHIVE).write_bytes(path)
        return home

    def recall(self, digest: str, device: str) -> Cost | None:
        """What a replica of this artifact took on a device of this kind, if it was ever loaded."""
        file = self._cost_file(digest, device)
        try:
            cost = msgspec.json.decode(file.read_bytes(), type=Cost)
            os.utime(file)
            return cost
        except (OSError, msgspec.DecodeError):
            return None

    def learn(self, digest: str, device: str, cost: Cost) -> None:
        """Remember it. A full disk costs us the memory of it, no more."""
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=self.path / "costs", delete=False) as file:
            file.write(msgspec.json.encode(cost))
            Path(file.name).replace(self._cost_file(digest, device))

    def _cost_file(self, digest: str, device: str) -> Path:
        return self.path / "costs" / f"{digest}-{device.partition(':')[0]}"


def discard(folder: Path) -> None:
    """Remove an unpacked model, at once as far as anybody can see."""
    gone = folder.with_name(f"{PARTIAL}{os.getpid()}-{folder.name}")
    with contextlib.suppress(OSError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
