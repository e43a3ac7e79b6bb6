"""Overlap: the share of time in which a GPU computes under load, against the same model with one step after the other.

    python benchmarks/gpu/overlap.py --seconds 5 --repeats 3 --write

The handler measures it with the device's own events. Without a GPU it runs on the CPU, which only shows that it runs;
then it writes nothing.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rows import Rows
from serve import running
from shapes import STEPS
from throughput import load, model_folder, write_bodies

# Keys of serving.toml, and options of the handler.
WAYS = {
    "served": ("", ""),
    "served without graphs": ("cuda_graphs = false\n", ""),
    "one step after the other": ("", "serial = true"),
}
COLUMNS = {
    "how": ("how", "{}"),
    "busy": ("the device computes", "{:.1f} %"),
    "rps": ("samples/s", "{:,.0f}"),
    **{name: (f"{name} us", "{:.0f}") for name in STEPS},
}
RAMP = 2.0  # seconds of load before the measurement, and after it


def look(port: int, body: bytes) -> dict[str, Any]:
    """Return the handler's counters: seconds of the device and of each step, and the clock."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/invocations", body, {"content-type": "application/x-npy"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def share(port: int, file: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the share of time in which the device computed, samples per second, and each step's microseconds."""
    body = base64.b64decode(json.loads(file.read_text())[0]["base64"])
    found: list[float] = []

    def drive() -> None:
        report = load(port, file, options.connections, options.clients, options.seconds + 2 * RAMP)
        if report.errors:
            raise RuntimeError(f"{report.errors}")
        found.append(report.rps)

    thread = threading.Thread(target=drive)
    thread.start()
    time.sleep(RAMP)
    before = look(port, body)
    time.sleep(options.seconds)
    after = look(port, body)
    thread.join()
    busy = (after["busy"] - before["busy"]) / (after["now"] - before["now"])
    count = max(1, after["answers"] - before["answers"])
    steps = {name: 1e6 * (after["spent"][name] - before["spent"][name]) / count for name in STEPS}
    return {"busy": 100 * busy, "rps": found[0], **steps}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how much of the time a GPU computes under load.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--clients", type=int, default=4, help="processes that make load")
    parser.add_argument("--shape", default="resnet50")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    parser.add_argument("--json", type=Path, help="a file that grows by each row")
    options = parser.parse_args()
    facts = (
        f"{options.shape}, batches of {options.batch}, {options.connections} connections from {options.clients} "
        f"processes, {options.seconds:g} s, medians of {options.repeats}."
    )
    rows = Rows("overlap", facts, COLUMNS, options.json)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "bodies.json")
        write_bodies(options.shape, file)
        for number, (name, (keys, extra)) in enumerate(WAYS.items()):
            folder = model_folder(Path(scratch, str(number)), options.shape, options.batch, "Timed", extra, keys)
            measured = []
            for _ in range(options.repeats):
                with running(folder) as port:
                    measured.append(share(port, file, options))
            rows.add(how=name, **{key: statistics.median(one[key] for one in measured) for key in measured[0]})
    if options.write:
        rows.write("gpu-busy", "How much of the time the GPU computes")


if __name__ == "__main__":
    main()
