"""Takes ``fixed`` seconds for a batch and ``each`` for every request in it, without work for the CPU."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from serving import BatchPolicy, Handler


class Steady(Handler):
    policy = BatchPolicy(max_size=32)

    def load(self, model_dir: Path, device: str, fixed: float = 0.020, each: float = 0.001) -> None:
        self.fixed, self.each = fixed, each

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        time.sleep(self.fixed + self.each * len(batch))
        return batch


class Padding(Handler):
    """Sums rows of any length."""

    policy = BatchPolicy(max_size=8, max_delay_ms=200, pad=0.0)

    def predict(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return batch[0].sum(-1)
