"""A gate that a test holds: a call that comes to it says so, and goes on when the test opens it."""

from __future__ import annotations

import time
from pathlib import Path

MOST = 100.0  # seconds, so that what a test leaves shut ends some day


def wait_at(gate: str) -> None:
    """Wait until the gate at this path is open."""
    Path(gate, "waiting").touch()
    end = time.monotonic() + MOST
    while not Path(gate, "open").exists() and time.monotonic() < end:
        time.sleep(0.001)
