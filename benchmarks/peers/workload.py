"""Workload: the models of all servers: raw numbers in, raw numbers out, the same weights everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.generic]


class Shape(NamedTuple):
    """The input of one sample: ``length`` numbers of ``dtype`` in its body."""

    length: int
    dtype: str

    def read(self, body: bytes | bytearray | memoryview) -> Array:
        return np.frombuffer(body, self.dtype, self.length)


SHAPES = {
    "tiny": Shape(16, "float32"),
    "mlp": Shape(1024, "float32"),
    "encoder": Shape(64, "int64"),
    "echo-1m": Shape(1 << 20, "uint8"),
    "echo-16m": Shape(16 << 20, "uint8"),
}
FILES = Path(__file__).resolve().parents[2] / ".peers" / "models"
MAX_BATCH = 32
MAX_DELAY = 0.005  # seconds; for servers that wait for a batch to fill


class Encoder(nn.Module):
    """4 layers of width 256 over 64 ids: int64 [n, 64] to float32 [n, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 256)
        layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(256, 8)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(self.embed(ids)).mean(1))
        return found


def build(name: str) -> nn.Module:
    """Load the model from the file that ``keep`` wrote: the same form of it everywhere."""
    found: nn.Module = design(name) if name.startswith("echo") else torch.jit.load(str(FILES / f"{name}.pt"))  # type: ignore[no-untyped-call]
    return found


def keep(name: str) -> None:
    """Trace the model and write its file, so that no server's start and memory include tracing."""
    file = FILES / f"{name}.pt"
    if name.startswith("echo") or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    sample = torch.from_numpy(SHAPES[name].read(body_of(name)).copy())
    with torch.inference_mode():
        traced = torch.jit.trace(design(name), sample[None])  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(file))


def design(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("echo"):
        return nn.Identity()
    if name == "tiny":
        return nn.Linear(16, 4).eval()
    if name == "encoder":
        return Encoder().eval()
    return nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(1024, 1024), nn.ReLU()))).eval()


def run(model: nn.Module, samples: list[Array]) -> Array:
    """Run a batch of what ``read`` returned through the model."""
    with torch.inference_mode():
        found: Array = model(torch.from_numpy(np.stack(samples))).numpy()
    return found


def body_of(name: str) -> bytes:
    shape, random = SHAPES[name], np.random.default_rng(1)
    if shape.dtype == "float32":
        return random.standard_normal(shape.length, np.float32).tobytes()
    return random.integers(0, 256, shape.length, shape.dtype).tobytes()
