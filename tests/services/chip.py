"""Uses a GPU as its requests say: ``{"do": …, "n": …}``. The answer tells the worker's pid and what came out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from serving import BatchPolicy, Handler, Request

MIB = 1 << 20
LONG = 200_000_000  # cycles of the device, about 0.1 s


class Chip(Handler):
    policy = BatchPolicy(max_size=16, max_delay_ms=20)

    def load(self, model_dir: Path, device: str, mib: int = 0) -> None:
        """``mib`` MiB of weights."""
        self.device = device
        self.weights = torch.ones(mib * MIB // 4, device=device)

    def decode(self, request: Request) -> dict[str, Any]:
        sample: dict[str, Any] = super().decode(request)
        return sample

    def predict(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        """A column of the numbers doubled on the device, and one of what each request had done there."""
        numbers = torch.tensor([float(sample.get("n", 0)) for sample in batch], device=self.device)
        held = [self.work(sample) for sample in batch]  # all of them at the same time
        return {"double": numbers * 2, "held": torch.stack([one.sum() for one in held])}

    def work(self, sample: dict[str, Any]) -> torch.Tensor:
        match sample.get("do"):
            case "assert":
                table = torch.zeros(4, device=self.device)
                return table[torch.tensor([sample["n"] + 100], device=self.device)]
            case "late":  # an assert as well, but the host is on its way before the device comes to it
                table = torch.zeros(4, device=self.device)
                where = torch.tensor([sample["n"] + 100]).pin_memory().to(self.device, non_blocking=True)
                torch.cuda._sleep(LONG)
                return table[where]
            case "allocate":
                return torch.ones(int(sample["mib"]) * MIB // 4, device=self.device)
            case "spin":
                while True:
                    torch.ones(1, device=self.device).sum().item()
            case _:
                return torch.zeros(1, device=self.device)

    def encode(self, output: dict[str, Any], request: Request) -> dict[str, Any]:
        where = {"pid": os.getpid(), "visible": torch.cuda.device_count(), "on": str(output["double"].device)}
        return {"double": float(output["double"]), "held": float(output["held"]), **where}
