"""Metrics: how long a scrape takes, and how much it says, with many models in the store.

    python benchmarks/metrics.py --models 1000 --used 200

Models are counted as two HTTP workers and one replica each would; then the text is made again and again.
"""

from __future__ import annotations

import argparse
import statistics
import time

from serving.frontend.api.metrics import Metrics
from serving.frontend.counting.counts import Counts
from serving.ipc.scoreboard import Phase, Scoreboard
from serving.worker.counts import EngineCounts


def filled(models: int, used: int) -> Scoreboard:
    """Return a scoreboard in which ``used`` of ``models`` have replicas, and all have been asked."""
    board = Scoreboard.create()
    for index in range(2):
        counts = Counts(board.metrics.http(index))
        for number in range(models):
            for _ in range(1 + models // (number + 1)):
                counts.of(f"model-{number}").end(200, "", 0.01, 1000, 1000)
    for number in range(used):
        row = board.row(number)
        row.pid, row.phase = 1, Phase.READY
        EngineCounts(row.metrics, f"model-{number}")
    return board


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--used", type=int, default=200)
    args = parser.parse_args()
    metrics = Metrics(filled(args.models, args.used), 20)
    times = []
    for _ in range(51):
        started = time.perf_counter()
        text, _ = metrics.render("")
        times.append(1000 * (time.perf_counter() - started))
    print(f"{len(text):,} bytes, {text.count(b'# HELP')} names")
    print(
        f"first {times[0]:.1f} ms, then {statistics.median(times[1:]):.1f} ms (median), at most {max(times[1:]):.1f} ms"
    )


if __name__ == "__main__":
    main()
