"""ProcessCounts: what a process counts of itself: CPU time, memory, descriptors."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from serving.metrics import catalog
from serving.metrics.region import Region

STEP = 1.0  # seconds between two looks


class ProcessCounts:
    """The counts of this process in ``region``. ``process`` is its kind: supervisor, http or model."""

    def __init__(self, region: Region, process: str) -> None:
        self._floats = region.floats
        self._cpu = region.must(catalog.CPU_SECONDS.of(process))
        self._resident = region.must(catalog.RESIDENT.of(process))
        self._descriptors = region.must(catalog.DESCRIPTORS.of(process))
        self._counted = cpu_seconds()
        self._next = 0.0

    def look(self, now: float) -> None:
        """Count once a second; cheap in between."""
        if now < self._next:
            return
        self._next = now + STEP
        cpu = cpu_seconds()
        self._floats[self._cpu] += cpu - self._counted
        self._counted = cpu
        self._floats[self._resident] = float(resident_bytes())
        self._floats[self._descriptors] = float(len(os.listdir("/proc/self/fd")))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
