"""Weights: how fast weights reach their device: GB/s from a file in the page cache, by way of loading.

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
from rows import Rows
from safetensors.torch import load_file, save_file

from serving import load_weights
from serving.weights.ring import Ring
from serving.weights.statedict import load_safetensors

COLUMNS = {
    "way": ("way", "{}"),
    "first": ("GB/s, the first call", "{:.2f}"),
    "call": ("GB/s, the next ones", "{:.2f}"),
    "use": ("GB/s, until every byte was used", "{:.2f}"),
}


def touched(weights: dict[str, torch.Tensor]) -> None:
    """Read every byte on its device."""
    for tensor in weights.values():
        tensor.view(torch.int64).sum().item()


def rate(load: Callable[[], dict[str, torch.Tensor]], size: int, rounds: int) -> tuple[float, float, float]:
    """Return GB/s of the first load, of later ones, and of those until every byte was used once.

    The first one allocates memory; the others are medians.
    """
    loads, uses = [], []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        weights = load()
        loaded = time.perf_counter()
        touched(weights)
        used = time.perf_counter()
        del weights
        loads.append(size / (loaded - began) / 1e9)
        uses.append(size / (used - began) / 1e9)
    return loads[0], statistics.median(loads[1:]), statistics.median(uses[1:])


def pinned_copy(size: int, device: str) -> Callable[[], dict[str, torch.Tensor]]:
    """Return the upper limit of any way of loading: one copy over the bus, or within memory."""
    source = torch.ones(size // 8, dtype=torch.int64, pin_memory=device.startswith("cuda"))

    def load() -> dict[str, torch.Tensor]:
        copied = torch.empty_like(source, device=device).copy_(source)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return {"all": copied}

    return load


def rings(path: Path, device: str) -> dict[str, Callable[[], dict[str, torch.Tensor]]]:
    """Return ways of ``load_weights`` to a GPU with other numbers of threads and other chunks."""

    def way(readers: int, mib: int) -> Callable[[], dict[str, torch.Tensor]]:
        return lambda: load_safetensors(path, device, ring=Ring(chunk=mib << 20, readers=readers))

    sizes = [(1, 8), (4, 8), (8, 8), (8, 4), (8, 16)] if device.startswith("cuda") else []
    return {f"a ring, {readers} readers, chunks of {mib} MiB": way(readers, mib) for readers, mib in sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file that grows by each row")
    options = parser.parse_args()
    count = max(1, int(options.gib * 1024) // 32)
    weights = {f"layer{index}.weight": torch.randn(1024, 8192) for index in range(count)}  # 32 MiB each
    size = sum(tensor.nbytes for tensor in weights.values())
    facts = f"{size / 2**30:.2f} GiB to {options.device}, medians of {options.rounds}."
    rows = Rows("weights", facts, COLUMNS, options.json)
    with tempfile.TemporaryDirectory() as folder:
        saved, safe = Path(folder, "weights.pt"), Path(folder, "weights.safetensors")
        torch.save(weights, saved)
        save_file(weights, safe)
        del weights
        ways: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
            "`load_weights`, safetensors": lambda: load_weights(safe, options.device),
            "`load_weights`, torch.save": lambda: load_weights(saved, options.device),
            **rings(safe, options.device),
            "`safetensors.torch.load_file`": lambda: load_file(safe, device=options.device),
            "`torch.load`, mapped": lambda: torch.load(
                saved, map_location=options.device, weights_only=True, mmap=True
            ),
            "`torch.load`, read": lambda: torch.load(saved, map_location=options.device, weights_only=True),
            "one copy": pinned_copy(size, options.device),
        }
        for name, load in ways.items():
            first, call, use = rate(load, size, options.rounds)
            rows.add(way=name, first=first, call=call, use=use)


if __name__ == "__main__":
    main()
