"""Measures for how long the device computes: ``[numbers]`` to ``{"busy": seconds so far, "now": the clock}``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from serving import BatchPolicy, Handler, Request

DECODE = 0.0002  # seconds of work on the host for each request
COMPUTE = 0.025  # seconds that the device takes for a full batch, whichever it is: thrice what the host does for one


class Busy(Handler):
    policy = BatchPolicy(max_size=32)

    def load(self, model_dir: Path, device: str, size: int = 4096, layers: int = 24) -> None:
        self.device = device
        self.layers = [torch.randn(size, size, device=device, dtype=torch.float16) / size**0.5 for _ in range(layers)]
        self.size = size
        self.rounds = 1
        self.events: list[tuple[Any, Any]] = []
        self.busy = 0.0
        self.rounds = max(1, round(COMPUTE / self.measure()))

    def measure(self) -> float:
        """Seconds of one round with a full batch."""
        batch = torch.zeros(self.policy.max_size, 64, device=self.device)
        with torch.inference_mode():
            for _ in range(3):
                self.predict(batch)
                torch.cuda.synchronize()
        start, end = self.events[-1]
        self.events.clear()
        return float(start.elapsed_time(end)) / 1000

    def decode(self, request: Request) -> torch.Tensor:
        until = time.perf_counter() + DECODE
        sample: torch.Tensor = torch.as_tensor(super().decode(request)).float()
        while time.perf_counter() < until:
            pass
        return sample

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        x = batch.half().repeat(32, self.size // batch.shape[1])
        for layer in self.layers * self.rounds:
            x = torch.relu(x @ layer)
        end.record()
        self.events.append((start, end))
        return x[: len(batch), :8].float()

    def encode(self, output: torch.Tensor, request: Request) -> dict[str, float]:
        while self.events and self.events[0][1].query():
            start, end = self.events.pop(0)
            self.busy += start.elapsed_time(end) / 1000
        return {"busy": self.busy, "now": time.monotonic()}


class Serial(Busy):
    """Waits for the device before it goes on, as a server does that runs one step after the other."""

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        outputs = super().predict(batch)
        torch.cuda.synchronize()
        return outputs
