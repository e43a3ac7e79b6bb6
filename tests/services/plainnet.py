"""A small network kept as ``self.module``, for what ``serving.toml`` says of its speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serving import BatchPolicy, Handler, Request


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return]


class Plain(Handler):
    policy = BatchPolicy(max_size=4)

    def load(self, model_dir: Path, device: str) -> None:
        self.device = device
        self.module: Any = Net().to(device).eval()

    def decode(self, request: Request) -> Tensor:
        return torch.tensor(super().decode(request)).float()

    def predict(self, batch: Tensor) -> Any:
        return self.module(batch)

    def warmup(self) -> None:
        self.predict(torch.zeros(1, 4, device=self.device))


class Twice(Plain):
    """Uses its module twice for one answer."""

    def predict(self, batch: Tensor) -> Any:
        once, again = self.module(batch), self.module(2 * batch)
        return torch.cat([once, again], 1)
