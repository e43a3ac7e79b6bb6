"""Faults of a device: the kinds of failure in user code by their effect on the device, and the exit codes of
workers.
"""

from __future__ import annotations

import enum

EXIT_STICKY = 74  # exit code of a worker whose CUDA context is lost: its replacement can serve
EXIT_HARDWARE = 75  # exit code of a worker whose GPU is broken: nothing can serve on it until it is repaired


class Fault(enum.Enum):
    NONE = "none"  # user code failed; the device is not the cause
    TRANSIENT = "transient"  # the same call may succeed if it is made again
    MEMORY = "memory"  # out of memory: a smaller batch may fit
    STICKY = "sticky"  # every later call in this process fails
    HARDWARE = "hardware"  # every later call on this GPU fails


ENDS = {EXIT_STICKY: (Fault.STICKY, "its CUDA context was lost"), EXIT_HARDWARE: (Fault.HARDWARE, "its GPU failed")}


def fault_of_exit(code: int) -> tuple[Fault, str]:
    """Return the fault that a worker's exit code stands for, and its description; ``NONE`` and "" for any other
    code.
    """
    return ENDS.get(code, (Fault.NONE, ""))
