"""Requirements: a model's requirements.txt, installed once, beside the packages of the image, for that model alone.

Packages of the image count as installed. Each file has a folder of its own below the temporary one, so that two models
may need two versions; with a folder ``requirements/`` of wheels in the model the network is not used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.adapters.conventions import OURS, convention_named
from serving.errors import ModelError
from serving.model.model import Model
from serving.system import interpreter, log, private
from serving.worker.loading import uv

FILE = "requirements.txt"
SHOWN = 300  # characters of pip's last message
PIP = ["install", "--no-input", "--disable-pip-version-check", "--quiet"]
BOUNDED = ["--retries", "1", "--timeout", "10"]


def prepare(model: Model, install: bool) -> None:
    """Install what the model needs and make it importable. Raises ModelError where pip fails."""
    path, file = Path(model.path), find(model)
    if file is None:
        return
    if not install:
        log.warning("requirements.txt is not installed: SERVING_INSTALL_REQUIREMENTS is false", file=str(file))
        return
    wheels = path / "requirements"
    home = home_of(file, wheels)
    with locked(home):
        if not (home / "done").exists():
            run_installer(file, wheels, home)
            (home / "done").touch()
    sys.path[:0] = [str(site) for site in sites(home) if site.is_dir()]


def find(model: Model) -> Path | None:
    """Return the file that the model's convention names, else that of the code, else that of the model.

    Raises ModelError.
    """
    path, code = Path(model.path), Path(model.code)
    # A folder of a known kind may be served by a handler of its own.
    convention = convention_named(model.convention)
    known = OURS if convention is None else (convention,)
    places = [file for one in known if (file := one.requirements(path)) is not None]
    found = [file for file in [*places, code / FILE, path / FILE] if file.is_file()]
    for other in dict.fromkeys(found[1:]):
        if other != found[0]:
            log.warning("of several requirements.txt the first counts", file=str(found[0]), ignored=str(other))
    return found[0] if found else None


def home_of(file: Path, wheels: Path) -> Path:
    """Return the folder for this file's packages, private to the user."""
    names = sorted(one.name for one in wheels.iterdir()) if wheels.is_dir() else []
    digest = hashlib.sha256(file.read_bytes() + "\n".join([sys.version, *names]).encode()).hexdigest()[:16]
    parent = private.make_own(Path(tempfile.gettempdir()) / f"serving-packages-{os.geteuid()}")
    return private.make_own(parent / digest)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Context in which one replica installs while others wait; the supervisor bounds it by the time to load."""
    with open(private.open_plain(home / "lock", os.O_RDWR | os.O_CREAT), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_installer(file: Path, wheels: Path, home: Path) -> None:
    """Install with uv where it can be used, else with pip. Raises ModelError where pip fails."""
    offline = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    log.info("installing requirements.txt", file=str(file), offline=bool(offline))
    if uv.install(file, home, offline):
        return
    command = [*interpreter.command("pip"), *PIP, *BOUNDED, "--prefix", str(home), *offline, "-r", str(file)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=file.parent)
    if result.returncode == 0:
        return
    log.error("pip failed", output=result.stderr[-4000:])
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "nothing")
    where = f"wheels in {wheels}" if offline else "the network; without one put wheels into requirements/ of the model"
    raise ModelError(f"{file} could not be installed from {where}: {reason[:SHOWN]}")


def sites(home: Path) -> list[Path]:
    """Return where pip puts packages below a prefix; some distributions have a scheme of their own."""
    base = {"base": str(home), "platbase": str(home)}
    schemes = dict.fromkeys([sysconfig.get_preferred_scheme("prefix"), "posix_prefix"])
    found = [sysconfig.get_path(kind, scheme, base) for scheme in schemes for kind in ("purelib", "platlib")]
    return [Path(path) for path in dict.fromkeys(found)]
