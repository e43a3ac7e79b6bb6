"""Xids: which of a GPU's errors mean that it is broken.

NVIDIA's Xid catalogue (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html) names an immediate action
for each. Where that is to reset the GPU or to restart the machine, nothing can run on the GPU until that is done. All
others are handled in the worker, which ends by itself if its CUDA context is lost: programs' own errors (13 exception,
31 page fault, 43 reset channel, 45 cleanup, which our own kills cause too), and those that the catalogue says to ignore
or to answer with a restart of the program (63 a row will be remapped at the next reset, 92 many corrected errors, 94 a
contained memory error).

Two deviations: 109, a context switch that took too long, which NVIDIA's own device plugin for Kubernetes counts among
the programs' errors, and which a kernel that never ends causes; and 74, NVLink, whose action depends on registers that
NVML does not report, and which a model on one GPU does not use.
"""

from __future__ import annotations

HARDWARE = {
    46: "it stopped processing",
    48: "double bit ECC error",
    62: "its micro-controller halted",
    64: "a row of its memory could not be remapped",
    79: "it fell off the bus",
    95: "uncontained memory error",
    110: "security fault",
    119: "timeout of its system processor",
    120: "error of its system processor",
    140: "unrecovered ECC error",
    143: "it could not be initialised",
    158: "fatal timeout",
}


def why_broken(code: int) -> str | None:
    """Return why a GPU that reports this Xid cannot be used any more; None if it can."""
    return f"Xid {code}: {HARDWARE[code]}" if code in HARDWARE else None
