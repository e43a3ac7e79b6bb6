"""Throughput: served models against the same models alone on the GPU, and against a server for one request at a time.

    python benchmarks/gpu/throughput.py --seconds 5 --repeats 3 --write

Everything is a process of its own. Without a GPU it runs on the CPU, which only shows that it runs; then it writes
nothing.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from report import Report, median
from rows import Rows
from serve import free_port, running, wait_ready
from shapes import example

HERE = Path(__file__).resolve().parent
SHAPES = ("resnet50", "bert-base")
BODIES = 16
WAYS = {
    "served": "served",
    "plain": "served without graphs",
    "compile": "served compiled",
    "naive": "one at a time",
}
KEYS = {"served": "", "plain": "cuda_graphs = false\n", "compile": 'compile = "default"\n'}
COLUMNS = {
    "shape": ("model", "{}"),
    "how": ("how", "{}"),
    "rps": ("samples/s", "{:,.0f}"),
    "p50": ("p50 ms", "{:.1f}"),
    "p99": ("p99 ms", "{:.1f}"),
    "share": ("of the limit", "{:.0f} %"),
    "errors": ("errors", "{}"),
}


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


def model_folder(
    folder: Path, shape: str, batch: int, handler: str = "Shaped", options: str = "", keys: str = ""
) -> Path:
    (folder / "code").mkdir(parents=True)
    shutil.copy(HERE / "shapes.py", folder / "code")
    (folder / "serving.toml").write_text(
        f'handler = "shapes:{handler}"\n{keys}[options]\nshape = "{shape}"\n{options}\n[batch]\nmax_size = {batch}\n'
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


def load(port: int, file: Path, connections: int, clients: int, seconds: float, path: str = "/invocations") -> Report:
    """Run ``clients`` load generators at the same time, since each uses one core.

    Rates add up, latencies are medians.
    """
    arguments = ["--url", f"http://127.0.0.1:{port}{path}", "--exchanges", str(file)]
    arguments += ["--content-type", "application/x-npy", "--connections", str(connections // clients)]
    command = [sys.executable, str(HERE.parent / "load.py"), *arguments, "--seconds", str(seconds)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(clients)]
    reports = [Report(**json.loads(process.communicate(timeout=seconds + 60)[0])) for process in processes]
    whole = median(reports)
    numbers = {**{name: getattr(whole, name) for name in Report.__dataclass_fields__}, "connections": connections}
    return Report(**{**numbers, "rps": sum(one.rps for one in reports)})


def measure(shape: str, options: argparse.Namespace, scratch: Path, rows: Rows) -> None:
    file = scratch / f"{shape}.json"
    write_bodies(shape, file)
    alone = run_json(HERE / "limit.py", "--shape", shape, "--seconds", options.seconds, *options.sizes)
    batch, limit = alone["batch"], alone["rps"]
    rows.add(shape=shape, how=f"alone, batches of {batch}", rps=limit, share=100.0)
    for way, replicas in itertools.product(options.ways, options.replicas):
        if way == "naive":
            continue
        how = " ".join([WAYS[way], *([f"by {replicas} replicas"] if replicas > 1 else [])])
        keys = f"{KEYS[way]}replicas = {replicas}\n"
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            served(rows, shape, how, limit, options, file, model_folder(Path(folder), shape, batch, keys=keys))
    if "naive" in options.ways:
        with naive(shape) as port:
            loaded(rows, shape, WAYS["naive"], limit, options, file, port)


def served(
    rows: Rows, shape: str, how: str, limit: float, options: argparse.Namespace, file: Path, folder: Path
) -> None:
    """Add the rows of one server: under load, and with one client alone."""
    try:
        with running(folder) as port:
            loaded(rows, shape, how, limit, options, file, port)
            one = load(port, file, 1, 1, min(1.0, options.seconds))
            rows.add(shape=shape, how=f"{how}, one connection", rps=one.rps, p50=one.p50, p99=one.p99)
    except Exception as exc:  # the other rows are still measured
        rows.add(shape=shape, how=f"{how}: {type(exc).__name__}: {exc}"[:200])


def loaded(rows: Rows, shape: str, how: str, limit: float, options: argparse.Namespace, file: Path, port: int) -> None:
    """Add the median of several measurements of the same server."""
    load(port, file, options.connections, options.clients, min(1.0, options.seconds))
    found = median(
        [load(port, file, options.connections, options.clients, options.seconds) for _ in range(options.repeats)]
    )
    errors = ", ".join(f"{count} x {name}" for name, count in found.errors.items()) or None
    rows.add(
        shape=shape,
        how=how,
        rps=found.rps,
        p50=found.p50,
        p99=found.p99,
        share=100 * found.rps / limit,
        errors=errors,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure served models against the same models alone.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--clients", type=int, default=4, help="processes that make load")
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["served", "plain", "naive"])
    parser.add_argument("--no-naive", action="store_true", help="leave out the server that takes one at a time")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1], help="numbers of replicas to try")
    parser.add_argument("--sizes", type=int, nargs="+", help="batch sizes to try alone")
    parser.add_argument("--json", type=Path, help="a file that grows by each row")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    options.sizes = ["--sizes", *options.sizes] if options.sizes else []
    if options.no_naive:
        options.ways = [way for way in options.ways if way != "naive"]
    facts = (
        f"{options.connections} connections from {options.clients} processes, {options.seconds:g} s, "
        f"medians of {options.repeats}."
    )
    rows = Rows("throughput", facts, COLUMNS, options.json)
    with tempfile.TemporaryDirectory() as scratch:
        for shape in options.shapes:
            measure(shape, options, Path(scratch), rows)
            if options.write:
                rows.write("gpu", "Models on a GPU", "shape")


if __name__ == "__main__":
    main()
