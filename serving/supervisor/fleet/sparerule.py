"""SpareRule: how many spare processes there should be on each device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.supervisor.fleet.devices import Devices
from serving.supervisor.fleet.replica import Owner, Served

ON_GPU, ON_CPU = 1, 0  # where the settings do not say: a CUDA context takes long to make, a process does not


@dataclass(frozen=True, slots=True)
class SpareRule:
    """``each`` is what the settings say, None if nothing; ``device`` is where models go that do not say."""

    each: int | None
    device: str

    def __call__(self, everything: Iterable[Served], devices: Devices) -> dict[str, int]:
        """Where the one model is; with many of them wherever one may come to be."""
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
