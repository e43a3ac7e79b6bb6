"""Container: an image's command, started as ``docker run --read-only`` would, without Docker."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.server import Server, eventually
from tests.image.buildah import Image

# The command is PID 1 of its own namespace, below a root that nobody can write to, save /tmp. The network is ours.
ENTER = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc"]
SCRIPT = """
root=$1 user=$2 model=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=64m tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/tmp"
if [ -n "$model" ]; then
    mount --bind "$model" "$root/opt/ml/model"
    mount -o remount,bind,ro "$root/opt/ml/model"
fi
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user:$user" --groups= "$root" "$@"
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment_of(image: Image, extra: Mapping[str, str]) -> list[str]:
    """The image's variables and no others: HOME is unset, as for a user whom the image does not know."""
    return ["/usr/bin/env", "-i", *image.environment, *(f"{name}={value}" for name, value in extra.items())]


def command(
    image: Image, root: Path, arguments: Sequence[str], user: int, model: Path | None, extra: Mapping[str, str]
) -> list[str]:
    if model is not None:
        (root / "opt/ml/model").mkdir(parents=True, exist_ok=True)  # as Docker does for a volume
    words = [*image.entrypoint, *(arguments or image.command)]
    return [*ENTER, SCRIPT, "sh", str(root), str(user), str(model or ""), *environment_of(image, extra), *words]


def run(image: Image, root: Path, *arguments: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    """``docker run IMAGE arguments`` to its end."""
    words = command(image, root, arguments, user, None, {})
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


class Container(Server):
    """``docker run -v model:/opt/ml/model:ro IMAGE``; arguments replace the image's CMD."""

    def __init__(
        self, image: Image, root: Path, *arguments: str, user: int = 0, model: Path | None = None, **settings: object
    ) -> None:
        self.image = image
        self._port = free_port()
        self._variables = {f"SERVING_{name.upper()}": str(value) for name, value in settings.items()}
        self._variables["SERVING_PORT"] = str(self._port)
        words = command(image, root, arguments, user, model, self._variables)
        super().__init__(model or Path("/opt/ml/model"), command=words)

    @property
    def init(self) -> int:
        """The pid, out here, of the container's PID 1."""
        return int(eventually(self.children_of_unshare)[0])

    def children_of_unshare(self) -> list[int]:
        """Raises OSError where it has ended."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def healthcheck(self) -> int:
        """Run the image's HEALTHCHECK as Docker does, inside, as the container's user; its exit code."""
        kind, *words = self.image.healthcheck
        assert kind == "CMD", "exec form: there need not be a shell"
        status = Path(f"/proc/{self.init}/status").read_text().splitlines()
        user = next(line.split()[1] for line in status if line.startswith("Uid:"))
        inside = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--root", f"--setuid={user}"]
        whole = [*inside, *environment_of(self.image, self._variables), *words]
        return subprocess.run(whole, capture_output=True, timeout=30, check=False).returncode

    def stop(self, number: int = signal.SIGTERM, seconds: float = 35.0) -> int:
        """To PID 1, as the platform does; nothing else gets a signal."""
        if self.process.poll() is None:
            os.kill(self.init, number)
        return self.wait(seconds)

    def leave(self) -> None:
        # With PID 1 go all the others. --kill-child is not enough: the kernel forgets it when the user changes.
        with contextlib.suppress(OSError):
            for pid in self.children_of_unshare():
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.wait(10)
