"""uv: installs a model's requirements several times as fast as pip does, where it is on the path.

pip has the last word: it installs where uv fails, so that what is said of a failure is the same with and without uv.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import msgspec

from serving.system import interpreter, log

BOUNDED = {"UV_HTTP_TIMEOUT": "10", "UV_HTTP_RETRIES": "1"}  # as pip is bounded; the first in seconds
PLAN = ["--dry-run", "--output-format", "json"]
# What pip may be told that does not change what it installs; of a file of settings, its content counts.
HARMLESS = {
    "config-file",
    "disable-pip-version-check",
    "no-cache-dir",
    "no-color",
    "no-input",
    "progress-bar",
    "root-user-action",
}


class Change(msgspec.Struct):
    """One line of a plan."""

    name: str
    version: str
    action: str


class Plan(msgspec.Struct):
    """What uv would do, as ``--dry-run`` says it."""

    changes: list[Change]


def install(file: Path, home: Path, options: list[str]) -> bool:
    """Install a requirements file below ``home``; ``options`` are for pip and uv alike. Returns whether uv did so."""
    program = shutil.which("uv")
    if program is None or not sees_every_package() or pip_is_configured():
        return False
    command = [program, "pip", "install", "--python", sys.executable, "--break-system-packages", "--quiet"]
    command += [*options, "--requirements", str(file)]
    try:
        install_planned(command, file.parent, home)
    except subprocess.CalledProcessError as exc:
        log.warning("uv failed, pip is tried", output=exc.stderr[-4000:])
        return False
    except (OSError, msgspec.MsgspecError) as exc:
        log.warning("uv failed, pip is tried", output=str(exc))
        return False
    return True


def install_planned(command: list[str], cwd: Path, home: Path) -> None:
    """Install what is missing beside the packages of the image. Raises CalledProcessError, OSError, MsgspecError.

    With ``--prefix`` uv takes nothing for installed. So a plan without it comes first, and the rest is left out.
    """
    plan = msgspec.json.decode(run([*command, *PLAN], cwd), type=Plan)
    planned = {name_of(one.name): one.version for one in plan.changes if one.action != "uninstalled"}
    if not planned:
        return
    there = {name_of(one.name) for one in distributions()} - planned.keys()
    excludes, constraints = home / "excludes.txt", home / "constraints.txt"
    excludes.write_text("".join(f"{name}\n" for name in sorted(there)))
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in planned.items()))
    chosen = ["--excludes", str(excludes), "--constraints", str(constraints)]
    run([*command, "--prefix", str(home), *chosen], cwd)


def run(command: list[str], cwd: Path) -> str:
    """Return what the command prints; the supervisor bounds it by the time to load. Raises CalledProcessError."""
    environment = {**os.environ, **BOUNDED}
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, cwd=cwd, env=environment
    ).stdout


def name_of(distribution: str) -> str:
    """Return the normalized name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def sees_every_package() -> bool:
    """Return whether all packages of this interpreter are in its own folders, the only ones that uv looks into."""
    seen = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    return all(Path(str(one.locate_file(""))) in seen for one in distributions())


def pip_is_configured() -> bool:
    """Return whether a file or the environment tells pip which packages to take, and from where: uv reads neither."""
    result = subprocess.run(
        interpreter.command("pip", "config", "list"), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    keys = {line.partition("=")[0].rpartition(".")[2] for line in result.stdout.splitlines()}
    return not keys <= HARMLESS
