"""What the driver says of the first GPU that we may use."""

from __future__ import annotations

import functools

import pytest

from serving.system import gpus
from serving.system.gpus.driver import Driver
from tests.e2e.server import eventually

MIB = 1 << 20


@functools.cache
def driver() -> Driver:
    return gpus.find()


def used() -> int:
    """Bytes in use by anybody; skips the test where nobody can tell."""
    found = driver().gpus()
    if not found or not found[0].total:
        pytest.skip("what is in use is known through NVML alone, which the extra gpu brings")
    return found[0].total - found[0].free


def falls_to(limit: int, seconds: float = 10.0) -> bool:
    return bool(eventually(lambda: used() <= limit, seconds))
