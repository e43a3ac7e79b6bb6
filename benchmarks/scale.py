"""Scale: the cost of a request with more HTTP workers, connections and models, or larger bodies.

    python benchmarks/scale.py --seconds 4 --repeats 3 --write

Also projects a large machine from these numbers. Prints Markdown; ``--write`` stores it in benchmarks/SCALE.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import cost
import servers
import torch
import workload
from serve import cpu_model
from servers import OURS, Peer, Question

from serving.config.config import cores
from serving.config.settings import workers_for

OUT = Path(__file__).resolve().parent / "SCALE.md"
WORKERS = (1, 2, 4)
CONNECTIONS = (64, 512, 2000)
MODELS = (1, 1000)
MIB = ("echo-1m", 8)
CORES, GPUS = 96, 8
WANTED = "m0"


def start_store(count: int, name: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    for n in range(count):
        model = folder / "store" / f"m{n}"
        model.mkdir(parents=True)
        (model / "serving.toml").write_text(f'handler = "ours:Numbers"\n[options]\nname = "{name}"\n')
    words = ["-m", "serving", "serve", "--store", str(folder / "store"), "--host", "127.0.0.1", "--port", str(port)]
    return servers.spawn([sys.executable, *words], name, port, folder, SERVING_CODE_DIR=str(servers.HERE))


def store_of(count: int) -> Peer:
    return Peer(
        f"{count} models",
        None,
        lambda name, port, folder: start_store(count, name, port, folder),
        ask_target,
    )


def ask_target(name: str) -> Question:
    headers = {"Content-Type": servers.BYTES, "X-Amzn-SageMaker-Target-Model": WANTED}
    return Question("/invocations", workload.body_of(name), headers)


class Cost:
    """Medians over the repeats; ``http`` and ``worker`` in microseconds of CPU for one request."""

    def __init__(self, peer: Peer, model: str, connections: int, options: argparse.Namespace, workers: int = 1) -> None:
        os.environ["SERVING_HTTP_WORKERS"] = str(workers)
        os.environ["SERVING_QUEUE_SIZE"] = str(2 * CONNECTIONS[-1])  # the default is too short for 2,000 connections
        found = [cost.measure(peer, model, connections, options.seconds) for _ in range(options.repeats)]
        self.rps = statistics.median(row["rps"] for row, _ in found)
        self.p50 = statistics.median(row["p50"] for row, _ in found)
        self.p99 = statistics.median(row["p99"] for row, _ in found)
        self.http = statistics.median(totals["http"] for _, totals in found)
        self.worker = statistics.median(totals["worker"] for _, totals in found)

    def row(self, name: str) -> str:
        return f"| {name} | {self.http:.1f} | {self.worker:.1f} | {self.rps:,.0f} | {self.p50:.2f} | {self.p99:.2f} |"


def projection(small: Cost, large: Cost) -> list[str]:
    """Return a table of the stages of one machine, each with the requests a second that would fill it."""
    http, worker = 1e6 / small.http, 1e6 / small.worker
    http_mib, worker_mib = 1e6 / large.http, 1e6 / large.worker
    needed, most = GPUS * worker / http, workers_for(CORES)
    return [
        "| stage | one of it | of the machine, small bodies | of the machine, 1 MiB each way |",
        "|---|---:|---:|---:|",
        f"| HTTP workers, {most} by default | {http:,.0f}/s | {most * http:,.0f}/s | {most * http_mib:,.0f}/s |",
        f"| HTTP workers, 4 | {http:,.0f}/s | {4 * http:,.0f}/s | {4 * http_mib:,.0f}/s |",
        f"| model workers, one for each of {GPUS} GPUs | {worker:,.0f}/s | {GPUS * worker:,.0f}/s "
        f"| {GPUS * worker_mib:,.0f}/s |",
        "",
        f"{needed:.1f} HTTP workers keep {GPUS} model workers busy with the smallest model.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the cost of a request grows.")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep it in benchmarks/SCALE.md")
    options = parser.parse_args()
    head = "| | HTTP worker, µs | model worker, µs | requests/s | p50 ms | p99 ms |\n|---|---:|---:|---:|---:|---:|"
    lines = [
        f"`python benchmarks/scale.py --seconds {options.seconds} --repeats {options.repeats}` on "
        f"{datetime.now(UTC).date().isoformat()}; {cpu_model()}, {cores()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}. Microseconds are CPU time of one request; wrk has the same cores. Medians.",
        "",
        head,
    ]
    base = Cost(OURS, "tiny", CONNECTIONS[0], options)
    lines.append(base.row(f"1 HTTP worker, {CONNECTIONS[0]} connections"))
    for count in WORKERS[1:]:
        lines.append(Cost(OURS, "tiny", CONNECTIONS[0], options, workers=count).row(f"{count} HTTP workers"))
    for count in CONNECTIONS[1:]:
        lines.append(Cost(OURS, "tiny", count, options).row(f"1 HTTP worker, {count:,} connections"))
    for count in MODELS:
        lines.append(Cost(store_of(count), "tiny", CONNECTIONS[0], options).row(f"{count:,} models in the store"))
    large = Cost(OURS, *MIB, options)
    lines.append(large.row(f"1 MiB each way, {MIB[1]} connections"))
    text = "\n".join([*lines, "", *projection(base, large)])
    print(text)
    if options.write:
        begin, end = "<!-- begin measured -->", "<!-- end measured -->"
        old = OUT.read_text()
        before, _, rest = old.partition(begin)
        OUT.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
