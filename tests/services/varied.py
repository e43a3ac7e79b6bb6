"""Models that differ in how they come to the device, what they give back and how: one class for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serving import BatchPolicy, Handler, Request, load_weights


class Sums(Handler):
    """``[numbers]`` to their sum on the device."""

    policy = BatchPolicy(max_size=8, max_delay_ms=5)

    def load(self, model_dir: Path, device: str, name: str = "") -> None:
        self.device = device

    def decode(self, request: Request) -> Tensor:
        return torch.tensor(super().decode(request)).float()

    def predict(self, batch: Tensor) -> Any:
        return batch.sum(-1)


class Padded(Sums):
    """Of several lengths in one batch."""

    policy = BatchPolicy(max_size=8, max_delay_ms=5, pad=0.0)

    def predict(self, batch: Any) -> Any:
        return batch.data.sum(-1)


class Threads(Sums):
    decode_threads = 2


class Stream(Sums):
    """The numbers one by one."""

    def predict(self, batch: Tensor) -> Tensor:
        return batch * 2

    def encode(self, output: Tensor, request: Request) -> Iterator[str]:
        return (f"{float(number)}\n" for number in output)


class Views(Sums):
    """Parts of larger tensors, repeated numbers, and what is lazy about them."""

    def predict(self, batch: Tensor) -> dict[str, Tensor]:
        turned = torch.complex(batch, 2 * batch)
        wide = torch.cat([batch, 3 * batch], 1)
        return {
            "conj": torch.view_as_real(turned.conj().resolve_conj()),
            "imag": turned.conj().imag,
            "real": turned.conj()[:, ::2].real,
            "part": wide[:, batch.shape[1] :],
            "turned": wide.t()[batch.shape[1] :].t(),
            "same": batch[:, :1].expand(-1, 3),
            "half": batch.bfloat16(),
            "whole": batch.long(),
        }

    def encode(self, output: dict[str, Tensor], request: Request) -> dict[str, Any]:
        return {name: value.tolist() for name, value in output.items()}


class Weights(Sums):
    """Its weights come from a file."""

    def load(self, model_dir: Path, device: str, name: str = "") -> None:
        super().load(model_dir, device)
        self.module = nn.Linear(4, 2, device="meta")
        self.module.load_state_dict(load_weights(model_dir / "weights.safetensors", device), assign=True)

    def predict(self, batch: Tensor) -> Tensor:
        found: Tensor = self.module(batch)
        return found


class Pictures(Sums):
    """Convolutions."""

    def load(self, model_dir: Path, device: str, name: str = "") -> None:
        super().load(model_dir, device)
        torch.manual_seed(0)
        self.module: Any = pictures().to(device)

    def predict(self, batch: Tensor) -> Tensor:
        found: Tensor = self.module(batch)
        return found

    def warmup(self) -> None:
        self.predict(torch.zeros(1, 3, 8, 8, device=self.device))


def pictures() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()


class Waits(Sums):
    """Asks the device for a number on its way, which no graph can hold."""

    def load(self, model_dir: Path, device: str, name: str = "") -> None:
        super().load(model_dir, device)
        self.module: Any = Asking()

    def predict(self, batch: Tensor) -> Any:
        return self.module(batch)

    def warmup(self) -> None:
        self.predict(torch.ones(1, 3, device=self.device))


class Asking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1) * (2.0 if x.sum().item() >= 0 else 3.0)


class Surroundings(Sums):
    """What the process was told, and what came of it."""

    def encode(self, output: Tensor, request: Request) -> dict[str, Any]:
        return {
            "told": os.environ.get("TOLD"),
            "threads": torch.get_num_threads(),
            "precision": torch.get_float32_matmul_precision(),
        }
