"""Limit: the model alone on the GPU, in a loop over batches that are there already. Prints one JSON object."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from shapes import Shaped, example

SIZES = (1, 8, 16, 32, 64, 128)


def rate(handler: Shaped, batch: torch.Tensor, seconds: float) -> float:
    """Return samples per second."""
    for _ in range(3):
        handler.predict(batch)
    synchronize(handler.device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(4):
            handler.predict(batch)
        synchronize(handler.device)
        count += 4 * len(batch)
    return count / (time.perf_counter() - began)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="resnet50")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options = parser.parse_args()
    handler = Shaped()
    handler.load(Path(), "cuda:0" if torch.cuda.is_available() else "cpu", options.shape)
    rates = {}
    with torch.inference_mode():
        for size in options.sizes:
            samples = [example(options.shape, seed) for seed in range(size)]
            rates[size] = rate(handler, torch.stack(samples).to(handler.device), options.seconds)
    best = max(rates, key=lambda size: rates[size])
    print(json.dumps({"batch": best, "rps": rates[best], "rates": rates}))


if __name__ == "__main__":
    main()
