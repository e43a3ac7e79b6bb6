"""Beside: the effect of a large model on the latency of a small one on the same GPU.

    python benchmarks/gpu/beside.py --seconds 3 --write

Both models are of one store; one client asks the small one, many keep the large one busy. Without a GPU it runs on the
CPU, which only shows that it runs; then it writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import running
from report import Report
from rows import Rows
from throughput import load, model_folder, write_bodies

RAMP = 1.0  # seconds of load before the measurement, and after it
COLUMNS = {
    "how": ("how", "{}"),
    "p50": ("p50 ms of the small model", "{:.1f}"),
    "p99": ("p99 ms", "{:.1f}"),
    "rps": ("its answers/s", "{:,.0f}"),
    "large": ("samples/s of the large model", "{:,.0f}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a small model beside a large one.")
    parser.add_argument("--small", default="bert-base")
    parser.add_argument("--large", default="resnet50")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="sizes of the large model's batches")
    parser.add_argument("--connections", type=int, default=512)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    parser.add_argument("--json", type=Path, help="a file that grows by each row")
    options = parser.parse_args()
    facts = f"{options.small} asked by one client, {options.large} by {options.connections}, {options.seconds:g} s."
    rows = Rows("beside", facts, COLUMNS, options.json)
    for batch in options.batches:
        with tempfile.TemporaryDirectory() as scratch:
            measure(Path(scratch), batch, options, rows)
    if options.write:
        rows.write("gpu-beside", "A small model beside a large one")


def measure(scratch: Path, batch: int, options: argparse.Namespace, rows: Rows) -> None:
    bodies = {}
    for name, shape, size in (("small", options.small, 1), ("large", options.large, batch)):
        bodies[name] = scratch / f"{name}.json"
        write_bodies(shape, bodies[name])
        model_folder(scratch / "store" / name, shape, size, keys="cuda_graphs = true\n")
    with running(scratch / "store", "--preload", "small,large") as server:

        def small() -> Report:
            return load(server.port, bodies["small"], 1, 1, options.seconds, "/models/small/invoke")

        small()
        alone = small()
        rows.add(how="alone", p50=alone.p50, p99=alone.p99, rps=alone.rps)
        found: list[Report] = []
        clients, seconds = options.clients, options.seconds + 2 * RAMP
        others = threading.Thread(
            target=lambda: found.append(
                load(server.port, bodies["large"], options.connections, clients, seconds, "/models/large/invoke")
            )
        )
        others.start()
        time.sleep(RAMP)
        beside = small()
        others.join(seconds + 60)
        how = f"beside batches of {batch}"
        rows.add(how=how, p50=beside.p50, p99=beside.p99, rps=beside.rps, large=found[0].rps)


if __name__ == "__main__":
    main()
