"""Faults of a device: what a failure in user code says about the device it ran on, and how a worker ends on one."""

from __future__ import annotations

import enum

EXIT_STICKY = 74  # exit code of a worker whose CUDA context is lost: its replacement can serve
EXIT_HARDWARE = 75  # of one whose GPU is: nothing can serve on it until somebody has looked


class Fault(enum.Enum):
    NONE = "none"  # user code failed; the device has no part in it
    TRANSIENT = "transient"  # the same call may succeed if it is made again
    MEMORY = "memory"  # out of memory: a smaller batch may fit
    STICKY = "sticky"  # every later call in this process fails
    HARDWARE = "hardware"  # every later call on this GPU fails


ENDS = {EXIT_STICKY: (Fault.STICKY, "its CUDA context was lost"), EXIT_HARDWARE: (Fault.HARDWARE, "its GPU failed")}


def told_by(code: int) -> tuple[Fault, str]:
    """What a worker's exit code says of its device, and in words; ``NONE`` and "" for any other code."""
    return ENDS.get(code, (Fault.NONE, ""))
