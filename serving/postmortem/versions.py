"""Versions: what the server runs on, without importing any of it."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path

PACKAGES = ("serving", "torch", "numpy")
DRIVER = Path("/sys/module/nvidia/version")


@lru_cache(1)
def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages that are installed, and of the GPU's driver if there is one."""
    import platform  # here, since the start does without both
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    with contextlib.suppress(OSError):
        found["driver"] = DRIVER.read_text().strip()
    return found
