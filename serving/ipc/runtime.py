"""Runtime: the private folder that the processes of one server share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving.config import words
from serving.config.config import Config
from serving.handler import Home
from serving.system import log, private

FOLDER = "serving-"
LOCK = "lock"
ADDRESS = "address.json"
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # an address of a server that listens on all of them
SETTLED = 60.0  # seconds; the owner of a younger folder may not have locked it yet
BACKLOG = 4096  # connections that may wait to be accepted; supervisor and HTTP master both call listen() with it
BEGIN = 256  # bytes of the first message to the fork server: the folder's path
SOCKET_PATH_LIMIT = 100  # bytes; the kernel takes 107


@dataclass(frozen=True, slots=True)
class Runtime:
    """A folder below the system's temporary one that only this user may enter: sockets, crash stacks, the Config."""

    path: Path

    @classmethod
    def create(cls, config: Config, host: str = "", port: int = 0) -> Runtime:
        """Create the folder. ``host`` and ``port`` are the server's address. Raises OSError where nothing is
        writable.
        """
        path = Path(tempfile.mkdtemp(prefix=FOLDER))
        if len(str(path)) > SOCKET_PATH_LIMIT - len("/worker-1024-1000000.sock"):
            path.rmdir()
            path = Path(tempfile.mkdtemp(prefix=FOLDER, dir="/tmp"))
        runtime = cls(path)
        try:
            runtime.claim()
            (path / "config.json").write_bytes(msgspec.json.encode(config))
            if port:
                runtime.write_address(host, port)
        except OSError:
            runtime.remove()
            raise
        return runtime

    def claim(self) -> None:
        """Mark the folder as in use for as long as this process lives; the kernel releases the lock when it ends."""
        fcntl.flock(private.open_plain(self.path / LOCK, os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)

    @classmethod
    def sweep(cls) -> None:
        """Remove the folders of this user's servers that were killed before they could remove them."""
        for path in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
            if private.is_private(path):
                with contextlib.suppress(OSError):
                    cls(path)._remove_if_left()

    def _remove_if_left(self) -> None:
        """Remove a folder without an owner. Raises OSError where a server still uses it, and where it is no server's
        folder.
        """
        with open(private.open_plain(self.path / LOCK), "rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime >= SETTLED:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.remove()

    def read_config(self) -> Config:
        return msgspec.json.decode((self.path / "config.json").read_bytes(), type=Config)

    def write_address(self, host: str, port: int) -> None:
        """Write the server's address, for those of its processes that send it requests as clients do."""
        (self.path / ADDRESS).write_bytes(msgspec.json.encode((host, port)))

    def home(self) -> Home | None:
        """Return what a model worker may know of its server; None where the server listens nowhere."""
        if not (self.path / ADDRESS).exists():
            return None
        host, port = msgspec.json.decode((self.path / ADDRESS).read_bytes(), type=tuple[str, int])
        return Home(ANY.get(host, host), port)

    @property
    def instance(self) -> str:
        """Eight hexadecimal digits that distinguish this server from others."""
        return hashlib.sha256(self.path.name.encode()).hexdigest()[:8]

    @property
    def control_path(self) -> Path:
        return self.path / "control.sock"

    def worker_path(self, row: int, epoch: int) -> Path:
        return self.path / f"worker-{row}-{epoch}.sock"

    def meeting_path(self, row: int, epoch: int) -> Path:
        """Return the file through which the ranks of one worker find each other."""
        return self.path / f"worker-{row}-{epoch}.ranks"

    def stacks_path(self, row: int, epoch: int) -> Path:
        return self.path / f"worker-{row}-{epoch}.stacks"

    def words_path(self, row: int, epoch: int) -> Path:
        """Return the file with the unfinished line that a worker's user code has begun to print."""
        return self.path / f"worker-{row}-{epoch}.words"

    def forget_worker(self, row: int, epoch: int, **fields: object) -> str:
        """Remove a dead worker's files; returns the stacks that it wrote, "" if none. Unfinished lines that its user
        code printed are written to the log, with ``fields``.
        """
        for stream, text in words.read(self.words_path(row, epoch)).items():
            log.printed(text, stream=stream, **fields)
        stacks = self.stacks_path(row, epoch)
        text = stacks.read_text(errors="replace") if stacks.exists() else ""
        others = (self.worker_path(row, epoch), self.words_path(row, epoch))
        for path in (stacks, *others):
            path.unlink(missing_ok=True)
        return text

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def set_parent_death_signal(signal: int) -> None:
    """Ask the kernel to signal this process when its parent ends (Linux ``prctl(PR_SET_PDEATHSIG)``)."""
    _prctl(1, signal)


def become_subreaper() -> None:
    """Adopt orphaned descendants as children, as PID 1 does (``prctl(PR_SET_CHILD_SUBREAPER)``)."""
    _prctl(36, 1)


def _prctl(option: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
