"""Footprint: the memory of a worker's process and device, as the supervisor sees it."""

from __future__ import annotations

from serving.ipc.scoreboard import Row
from serving.system.memory import memory_of, release_freed
from serving.worker.device.border import Device
from serving.worker.device.host import Host


class Footprint:
    """The memory of one worker on its ``device``, shown in ``row``. From any thread."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.device: Device = Host()

    def measure(self) -> None:
        host = memory_of("self")
        self._row.stamp_memory(host.private, host.peak, self.device.held())

    def measure_idle(self) -> None:
        """Measure once nothing more is done for a while, without what can be given back."""
        release_freed()
        self.measure()
