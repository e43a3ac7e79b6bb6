"""How fast weights come to where they are used: GB/s from a file in the page cache, by way of loading.

``python benchmarks/weights.py`` prints a Markdown table; ``--device cuda:0`` loads to a GPU, ``--gib`` sets the size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from serving import load_weights

ROUNDS = 5


def touched(weights: dict[str, torch.Tensor]) -> None:
    """Every byte is read where it is to be used."""
    for tensor in weights.values():
        tensor.view(torch.int64).sum().item()


def rate(load: Callable[[], dict[str, torch.Tensor]], size: int) -> tuple[float, float]:
    """GB/s of the load alone, and until every byte was used once; medians."""
    loads, uses = [], []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        weights = load()
        loaded = time.perf_counter()
        touched(weights)
        used = time.perf_counter()
        del weights
        loads.append(size / (loaded - began) / 1e9)
        uses.append(size / (used - began) / 1e9)
    return statistics.median(loads[1:]), statistics.median(uses[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gib", type=float, default=2.0)
    options = parser.parse_args()
    count = int(options.gib * 1024) // 32
    weights = {f"layer{index}.weight": torch.randn(1024, 8192) for index in range(count)}  # 32 MiB each
    size = sum(tensor.nbytes for tensor in weights.values())
    with tempfile.TemporaryDirectory() as folder:
        saved, safe = Path(folder, "weights.pt"), Path(folder, "weights.safetensors")
        torch.save(weights, saved)
        save_file(weights, safe)
        del weights
        ways: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
            "`torch.load`, read": lambda: torch.load(saved, map_location=options.device, weights_only=True),
            "`load_weights`, torch.save": lambda: load_weights(saved, options.device),
            "`load_weights`, safetensors": lambda: load_weights(safe, options.device),
        }
        print(f"{size / 2**30:.1f} GiB to {options.device}, torch {torch.__version__}, medians of {ROUNDS}\n")
        print("| way | GB/s, the call | GB/s, until every byte was used |\n|---|---|---|")
        for name, load in ways.items():
            call, use = rate(load, size)
            print(f"| {name} | {call:.2f} | {use:.2f} |")


if __name__ == "__main__":
    main()
