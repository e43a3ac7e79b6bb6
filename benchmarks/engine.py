"""Engine: the processor time that a model worker's batcher and engine take for a request, without a server or a model.

    python benchmarks/engine.py                                  # this checkout
    python benchmarks/engine.py --before ../old --pairs 5        # beside another one, in pairs of one run

The handler does nothing, so that what is measured is the way of a request from the queue to its answer: arrival,
decode, bucket, batch, encode, delivery. Batches of one show what a batch costs, full ones what a request costs. Time is
the thread's own, the least of several rounds, since whatever else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving import BatchPolicy, Handler, Request, Response
from serving.deadline import Deadline
from serving.ipc.scoreboard import Scoreboard
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.engine import Engine

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1, 32)  # requests in a batch
ROUNDS = 30
REQUESTS = 2000  # in a round
BYTES = "application/octet-stream"


class Nothing(Handler):
    """A handler that costs next to nothing."""

    policy = BatchPolicy(max_size=32)
    answer = Response(b"x", BYTES)

    def decode(self, request: Request) -> int:
        return 0

    def bucket(self, sample: int) -> int:
        return 0

    def collate(self, samples: Sequence[Any]) -> Any:
        return samples

    def predict(self, batch: Any) -> Any:
        return batch

    def split(self, output: Any, n: int) -> Any:
        return output

    def encode(self, output: Any, request: Request) -> Response:
        return self.answer


class Bench:
    """An engine that answers ``size`` requests at a time. ``answered`` counts them."""

    def __init__(self, size: int) -> None:
        handler = Nothing()
        self.answered = 0
        self._size = size
        self._batcher = Batcher(handler.policy, 1000)
        row = Scoreboard.create().row(0)
        self._turns = Engine(handler, self._batcher, row, self._count).turns()

    def _count(self, outcomes: list[Any]) -> None:
        self.answered += len(outcomes)

    def answer(self, batches: int) -> None:
        """Queue and answer this many batches, one after the other."""
        for _ in range(batches):
            deadline = Deadline(time.monotonic() + 60)
            for id in range(1, self._size + 1):
                self._batcher.add(Item(id, Request(b"body", BYTES, BYTES, "id", deadline)))
            while self._batcher.size:
                next(self._turns)

    def measure(self, rounds: int = ROUNDS, requests: int = REQUESTS) -> float:
        """Return the microseconds that a request takes, the least of several rounds of ``requests`` each."""
        batches = max(1, requests // self._size)
        self.answer(batches)  # what is done once only
        found = []
        for _ in range(rounds):
            began = time.thread_time()
            self.answer(batches)
            found.append((time.thread_time() - began) / (batches * self._size) * 1e6)
        return min(found)


def measure_in(checkout: Path, size: int) -> float:
    """Measure a checkout in a process of its own, with this Python."""
    command = [sys.executable, "-P", __file__, "--only", str(size)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def compare(before: Path, after: Path, size: int, pairs: int) -> tuple[float, float, float]:
    """Return the medians of both checkouts, in microseconds, and of the ratios, above 1 where the second is faster."""
    found: list[tuple[float, float]] = []
    for pair in range(pairs):
        order = (before, after) if pair % 2 == 0 else (after, before)
        times = {checkout: measure_in(checkout, size) for checkout in order}
        found.append((times[before], times[after]))
    old, new = (statistics.median(one) for one in zip(*found, strict=True))
    return old, new, statistics.median(one / other for one, other in found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the engine takes for a request.")
    parser.add_argument("--before", type=Path, help="another checkout, to be measured beside this one")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", type=int, metavar="SIZE", help="print the microseconds for batches of one size")
    options = parser.parse_args()
    if options.only is not None:
        print(Bench(options.only).measure())
        return
    if options.before is None:
        for size in SIZES:
            print(f"{size} in a batch: {Bench(size).measure():.2f} µs a request")
        return
    print("| requests in a batch | before, µs a request | after, µs a request | speed, ratio |")
    print("|---:|---:|---:|---:|")
    for size in SIZES:
        old, new, ratio = compare(options.before, ROOT, size, options.pairs)
        print(f"| {size} | {old:.2f} | {new:.2f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
