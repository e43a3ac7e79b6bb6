"""Tiny: a model that costs next to nothing itself, to measure everything around it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from serving import Handler, Request


class Tiny(Handler):
    def load(self, model_dir: Path, device: str) -> None:
        self.device = device
        self.net = torch.nn.Linear(2, 2).to(device).eval()

    def decode(self, request: Request) -> Tensor:
        return torch.tensor(super().decode(request)).float()

    def predict(self, batch: Tensor) -> Tensor:
        found: Tensor = self.net(batch)
        return found

    def warmup(self) -> None:
        self.predict(torch.zeros(1, 2, device=self.device))
