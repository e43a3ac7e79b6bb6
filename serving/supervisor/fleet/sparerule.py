"""SpareRule: the number of spare processes on each device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.supervisor.fleet.devices import Devices
from serving.supervisor.fleet.replica import Owner, Served

ON_GPU, ON_CPU = 1, 0  # defaults: a CUDA context takes long to create, a process does not


@dataclass(frozen=True, slots=True)
class SpareRule:
    """The rule for spares. ``each`` is the setting, None if not set; ``device`` is where models without a device go."""

    each: int | None
    device: str

    def __call__(self, everything: Iterable[Served], devices: Devices) -> dict[str, int]:
        """Return the number of spares by device: where a server's only model is, or wherever one of many models may be
        placed.
        """
        single = [one for one in everything if one.owner is Owner.START]
        places = devices.homes(self.device)
        if single:
            served = single[0]
            of_use = served.failed is None and not served.model.env and served.model.gpus == 1
            places = list(dict.fromkeys(served.devices)) or devices.homes(served.model.device) if of_use else []
        counts = {name: self._count(name in devices) for name in places}
        return {name: count for name, count in counts.items() if count}

    def _count(self, is_gpu: bool) -> int:
        if self.each is not None:
            return self.each
        return ON_GPU if is_gpu else ON_CPU
