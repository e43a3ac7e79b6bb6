"""What the driver says of the first GPU."""

from __future__ import annotations

import pytest

from tests.e2e.server import eventually


def used() -> int:
    """Bytes in use by anybody; skips the test without the extra ``gpu``."""
    pynvml = pytest.importorskip("pynvml")
    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    finally:
        pynvml.nvmlShutdown()


def falls_to(limit: int, seconds: float = 10.0) -> bool:
    return bool(eventually(lambda: used() <= limit, seconds))
