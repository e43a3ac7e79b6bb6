"""Served models against the same models alone on the GPU, and against a server that runs one request at a time.

    python benchmarks/gpu/throughput.py --seconds 5 --repeats 3 --write

Everything is a process of its own. Without a GPU it runs on the CPU, which shows that it runs and nothing else; then it
writes nothing.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from report import Report, median
from serve import RESULTS, free_port, running, wait_ready, write_section
from shapes import example

HERE = Path(__file__).resolve().parent
SHAPES = ("resnet50", "bert-base")
BODIES = 16


def run_json(script: Path, *arguments: object) -> Any:
    command = [sys.executable, str(script), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def write_bodies(shape: str, file: Path) -> None:
    entries = []
    for seed in range(BODIES):
        body = io.BytesIO()
        numpy.save(body, example(shape, seed).numpy())
        entries.append({"base64": base64.b64encode(body.getvalue()).decode(), "expect": '"class"'})
    file.write_text(json.dumps(entries))


def model_folder(folder: Path, shape: str, batch: int, handler: str = "Shaped", options: str = "") -> Path:
    (folder / "code").mkdir(parents=True)
    shutil.copy(HERE / "shapes.py", folder / "code")
    (folder / "serving.toml").write_text(
        f'handler = "shapes:{handler}"\n[options]\nshape = "{shape}"\n{options}\n[batch]\nmax_size = {batch}\n'
    )
    return folder


@contextlib.contextmanager
def naive(shape: str) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, str(HERE / "naive.py"), "--shape", shape, "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        wait_ready(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def load(port: int, file: Path, connections: int, clients: int, seconds: float) -> Report:
    """``clients`` load generators at the same time, since each has one core. Rates add up, latencies are medians."""
    arguments = ["--url", f"http://127.0.0.1:{port}/invocations", "--exchanges", str(file)]
    arguments += ["--content-type", "application/x-npy", "--connections", str(connections // clients)]
    command = [sys.executable, str(HERE.parent / "load.py"), *arguments, "--seconds", str(seconds)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(clients)]
    reports = [Report(**json.loads(process.communicate(timeout=seconds + 60)[0])) for process in processes]
    whole = median(reports)
    numbers = {**{name: getattr(whole, name) for name in Report.__dataclass_fields__}, "connections": connections}
    return Report(**{**numbers, "rps": sum(one.rps for one in reports)})


def measure(shape: str, options: argparse.Namespace, scratch: Path) -> list[str]:
    """The rows of the table."""
    file = scratch / f"{shape}.json"
    write_bodies(shape, file)
    limits, served, plain = [], [], []
    for repeat in range(options.repeats):
        limits.append(run_json(HERE / "limit.py", "--shape", shape, "--seconds", options.seconds, *options.sizes))
        batch = limits[0]["batch"]
        folder = model_folder(scratch / f"{shape}-{repeat}", shape, batch)
        with running(folder) as port:
            load(port, file, options.connections, options.clients, 2)
            served.append(load(port, file, options.connections, options.clients, options.seconds))
        with naive(shape) as port:
            load(port, file, options.connections, options.clients, 1)
            plain.append(load(port, file, options.connections, options.clients, options.seconds))
    limit = statistics.median(one["rps"] for one in limits)
    rows = [f"| {shape} | alone, batches of {limits[0]['batch']} | {limit:,.0f} | | | 100 % |"]
    for name, reports in (("served", served), ("one at a time", plain)):
        found = median(reports)
        cells = f"{found.rps:,.0f} | {found.p50:.1f} | {found.p99:.1f} | {found.rps / limit:.0%}".replace("%", " %")
        rows.append(f"| {shape} | {name} | {cells} |")
        if found.errors:
            raise RuntimeError(f"{shape}, {name}: {found.errors}")
    return rows


def where() -> str:
    """The device, what drives it, and when: what one has to know to compare these numbers with others."""
    device = f"{torch.cuda.get_device_name(0)}, driver {driver()}" if torch.cuda.is_available() else "CPU"
    return f"{device}; torch {torch.__version__}; {datetime.now(UTC).date().isoformat()}"


def keep(text: str, name: str, title: str, wanted: bool) -> None:
    """Print a table, and write it down if that is ``wanted`` and it was measured on a GPU."""
    print(text)
    if wanted and torch.cuda.is_available():
        write_section(RESULTS, text, name, title)


def driver() -> str:
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.splitlines()[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure served models against the same models alone.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--clients", type=int, default=4, help="processes that make load")
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--sizes", type=int, nargs="+", help="batch sizes to try alone")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    options.sizes = ["--sizes", *options.sizes] if options.sizes else []
    lines = [
        f"{where()}; {options.connections} connections from {options.clients} processes, {options.seconds:g} s, "
        f"medians of {options.repeats}.",
        "",
        "| model | how | samples/s | p50 ms | p99 ms | of the limit |",
        "|---|---|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for shape in options.shapes:
            lines += measure(shape, options, Path(scratch))
    keep("\n".join(lines), "gpu", "Models on a GPU", options.write)


if __name__ == "__main__":
    main()
