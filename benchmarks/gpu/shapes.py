"""Shapes: a handler for two models with the architecture of well-known ones and random weights."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serving import BatchPolicy, Handler, Request

DTYPE = torch.float16
STEPS = ("decode", "collate", "launch", "split", "encode")


class Bottleneck(nn.Module):
    def __init__(self, inner: int, width: int, outer: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *conv(inner, width, 1, 1), nn.ReLU(), *conv(width, width, 3, stride), nn.ReLU(), *conv(width, outer, 1, 1)
        )
        self.short = nn.Sequential(*conv(inner, outer, 1, stride)) if inner != outer or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convs(x) + self.short(x))


def conv(inner: int, outer: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inner, outer, size, stride, size // 2, bias=False), nn.BatchNorm2d(outer)


def resnet50() -> nn.Module:
    """Return a model of 25.6 million parameters: uint8 [n, 3, 224, 224] / 255 to [n, 1000]."""
    layers: list[nn.Module] = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inner = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            layers.append(Bottleneck(inner, width, 4 * width, stride if index == 0 else 1))
            inner = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, 1000))


class Encoder(nn.Module):
    """12 layers of width 768 with 12 heads: int64 [n, 128] to [n, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30522, 768)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Linear(768, 2)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(self.embed(ids))[:, 0])
        return out


class Shaped(Handler):
    """A handler that maps npy to ``{"class", "score"}``."""

    policy = BatchPolicy(max_size=32)

    def load(self, model_dir: Path, device: str, shape: str = "resnet50") -> None:
        torch.manual_seed(0)
        self.device = device
        self.shape = shape
        self.dtype = DTYPE if device != "cpu" else torch.float32
        net = resnet50().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net = net if shape == "resnet50" else Encoder()
        self.module = net.to(device, self.dtype).eval()

    def predict(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if self.shape == "resnet50":
            batch = batch.to(memory_format=torch.channels_last).to(self.dtype) / 255
        best = self.module(batch).float().softmax(-1).max(-1)
        return best.values, best.indices

    def encode(self, output: tuple[Tensor, Tensor], request: Request) -> dict[str, Any]:
        return {"class": int(output[1]), "score": float(output[0])}

    def warmup(self) -> None:
        most = self.policy.max_size
        for size in {most, *(1 << power for power in range(most.bit_length()))}:
            self.predict(torch.stack([example(self.shape, 0)] * size).to(self.device))


class Clock:
    """The seconds that a GPU has computed, by its own events; on a CPU the time of the calls."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._running: deque[tuple[Any, Any]] = deque()
        self._seconds = 0.0

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        if not self._on_gpu:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        yield
        end.record()
        self._running.append((start, end))

    def seconds(self) -> float:
        while self._running and self._running[0][1].query():
            start, end = self._running.popleft()
            self._seconds += start.elapsed_time(end) / 1000
        return self._seconds


class Timed(Shaped):
    """A handler that adds to each answer the seconds of the device, and those of the host in each step.

    Those of the host include waits for the GIL. With ``serial`` nothing else happens meanwhile, as in a server that
    takes one step after the other.
    """

    def load(self, model_dir: Path, device: str, shape: str = "resnet50", serial: bool = False) -> None:
        super().load(model_dir, device, shape)
        self.clock = Clock(device)
        self.serial = serial and device.startswith("cuda")
        self.spent = dict.fromkeys(STEPS, 0.0)
        self.answers = 0

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[name] += time.perf_counter() - began

    def decode(self, request: Request) -> Any:
        with self.step("decode"):
            return super().decode(request)

    def collate(self, samples: Sequence[Any]) -> Any:
        with self.step("collate"):
            return super().collate(samples)

    def predict(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        with self.step("launch"), self.clock.computing():
            outputs = super().predict(batch)
        if self.serial:
            torch.cuda.synchronize()
        return outputs

    def split(self, outputs: Any, n: int) -> Sequence[Any]:
        with self.step("split"):
            return super().split(outputs, n)

    def encode(self, output: tuple[Tensor, Tensor], request: Request) -> dict[str, Any]:
        self.answers += 1
        with self.step("encode"):
            found = super().encode(output, request)
        clocks = {"busy": self.clock.seconds(), "now": time.monotonic()}
        return {**found, **clocks, "spent": self.spent, "answers": self.answers}


def example(shape: str, seed: int) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    if shape == "resnet50":
        return torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=made)
    return torch.randint(0, 30522, (128,), generator=made)
