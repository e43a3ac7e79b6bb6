"""Images without a daemon: buildah with a store of its own, a Debian base, and what pip on this machine is told."""

from __future__ import annotations

import ast
import configparser
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("buildah", "debootstrap", "unshare", "nsenter")
# As Debian's slim images: no manuals and no translations, also in what is installed later.
SLIM = ["doc", "info", "lintian", "linda", "locale", "man"]


def missing() -> str:
    """What this machine lacks to build images; empty where it lacks nothing."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    return ", ".join([*absent, *([] if os.geteuid() == 0 else ["root"])])


@dataclass(frozen=True)
class Layer:
    made_by: str
    size: int  # bytes, unpacked


@dataclass(frozen=True)
class Image:
    """What the configuration of an image says to whoever runs it."""

    name: str
    entrypoint: list[str]
    command: list[str]
    environment: list[str]  # NAME=value
    labels: dict[str, str]
    healthcheck: list[str]
    ports: list[str]
    layers: list[Layer]

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    def table(self) -> str:
        rows = [f"{layer.size / 1e6:8.1f} MB  {layer.made_by[:110]}" for layer in self.layers]
        return "\n".join([f"{self.name}:", *rows, f"{self.size / 1e6:8.1f} MB  in all"])


class Buildah:
    def __init__(self, home: Path, keep: bool) -> None:
        """``keep`` the stages of builds, which make the next build of the same quick."""
        self.home = home
        self._keep = keep
        self.log = home / "log"
        self._store = ["--root", str(home / "store"), "--runroot", str(home / "run"), "--storage-driver", "vfs"]
        self._volumes = [f"--volume={volume}" for volume in pip_volumes(home)]

    def __call__(self, *arguments: str) -> str:
        """What the command wrote. Raises AssertionError with the end of the log where it failed."""
        return self._run(arguments, subprocess.PIPE)

    def _run(self, arguments: Sequence[str], stdout: int | None) -> str:
        with self.log.open("ab") as log:
            log.write(f"\n$ buildah {' '.join(arguments)}\n".encode())
            log.flush()
            command = ["buildah", *self._store, *arguments]
            done = subprocess.run(command, stdout=log if stdout is None else stdout, stderr=log, check=False)
        end = self.log.read_text(errors="replace")[-4000:]
        assert done.returncode == 0, f"exit code {done.returncode}\n{end}"
        return (done.stdout or b"").decode()

    def build(self, tag: str, dockerfile: Path, context: Path, volumes: tuple[str, ...] = (), **settings: str) -> Image:
        """Build as docker would, a layer an instruction; ``settings`` are the build arguments."""
        print(f"\nbuilding {tag} from {dockerfile.name}", flush=True)
        arguments = [
            *("build", "--isolation", "chroot", "--format", "docker", "--layers", "--pull=never"),
            *self._volumes,
            *(f"--volume={volume}" for volume in volumes),
            *(f"--build-arg={name}={value}" for name, value in settings.items()),
            *("--tag", tag, "--file", str(dockerfile), str(context)),
        ]
        self._run(arguments, None)
        if not self._keep:
            self("rmi", "--prune")  # each layer is a whole copy of the image: gigabytes a stage
        return self.inspect(tag)

    def inspect(self, tag: str) -> Image:
        found = json.loads(self("inspect", "--type", "image", tag))
        config = found["Docker"]["config"]
        sizes = {layer["diff-digest"]: layer["diff-size"] for layer in self._layers() if "diff-digest" in layer}
        made_by = [step.get("created_by", "") for step in found["OCIv1"]["history"] if not step.get("empty_layer")]
        digests = found["OCIv1"]["rootfs"]["diff_ids"]
        return Image(
            name=tag,
            entrypoint=config["Entrypoint"],
            command=config["Cmd"],
            environment=config["Env"],
            labels=config["Labels"] or {},
            healthcheck=(config.get("Healthcheck") or {}).get("Test", []),
            ports=sorted(config.get("ExposedPorts") or {}),
            layers=[Layer(step, sizes[digest]) for step, digest in zip(made_by, digests, strict=True)],
        )

    def _layers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.home / "store" / "vfs-layers" / "layers.json").read_text())
        return found

    def files(self, tag: str) -> Path:
        """A copy of the image's files, to run in."""
        return Path(self("mount", self("from", "--pull=never", tag).strip()).strip())

    def has(self, tag: str) -> bool:
        return bool(self("images", "--quiet", "--filter", f"reference={tag}").strip())

    def debian(self, tag: str, suite: str) -> None:
        """A base like Debian's own slim image, out of Debian's packages."""
        print(f"\nmaking {tag} with debootstrap", flush=True)
        root = self.home / "debian"
        with self.log.open("ab") as log:
            subprocess.run(["debootstrap", "--variant=minbase", suite, root], stdout=log, stderr=log, check=True)
        keep_slim(root)
        container = self("from", "scratch").strip()
        self("add", container, str(root), "/")
        self(
            "config",
            "--cmd",
            "bash",
            "--env",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            container,
        )
        self("commit", "--format", "docker", container, tag)
        self("rm", container)
        shutil.rmtree(root)


def keep_slim(root: Path) -> None:
    excluded = [f"path-exclude /usr/share/{name}/*\n" for name in SLIM]
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text("".join(excluded))
    folders = [*(f"usr/share/{name}" for name in SLIM), "var/cache/apt", "var/lib/apt/lists", "var/log", "dev"]
    for folder in folders:
        for entry in (root / folder).iterdir() if (root / folder).is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def pip_volumes(home: Path) -> list[str]:
    """pip's settings on this machine, from files and environment alike, as a file, and the local folders it names.

    A build has neither the environment nor the folders of the machine that it runs on. The folders get names of their
    own: a certificate under its old one would be in the way of the package that wants to put its file there.
    """
    pip = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    sections: dict[str, dict[str, str]] = defaultdict(dict)
    mounts: dict[Path, str] = {}
    for line in sorted(said.splitlines(), key=lambda line: line.startswith(":env:")):  # the environment wins
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        words = [mounted(word, mounts) for word in str(ast.literal_eval(value)).split()]
        sections["global" if section == ":env:" else section][key] = " ".join(words)
    file = configparser.RawConfigParser()
    file.read_dict(sections)
    with (home / "pip.conf").open("w") as stream:
        file.write(stream)
    return [f"{home / 'pip.conf'}:/etc/pip.conf:ro", *(f"{path}:{inside}:ro" for path, inside in mounts.items())]


def mounted(word: str, mounts: dict[Path, str]) -> str:
    """A word of pip's settings as it is inside; where it names a file or folder, that becomes one of ``mounts``."""
    scheme = "file://" if word.startswith("file://") else ""
    path = Path(word.removeprefix(scheme))
    if not path.is_absolute() or not path.exists():
        return word
    root = path.parent if path.name == "simple" else path  # an index has its files beside this folder, as a rule
    inside = mounts.setdefault(root, f"/mnt/pip/{len(mounts)}")
    return f"{scheme}{Path(inside, path.name)}" if root != path else f"{scheme}{inside}"
