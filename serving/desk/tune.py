"""``serving tune``: the effect of batch size, threads and replicas on this machine, measured with a model's samples."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.desk.flood import Measured, flood
from serving.errors import ModelError
from serving.model.samples import requests_of
from serving.request import Request
from serving.system import interpreter

SETTINGS = "serving.toml"
READY_TIME = 300.0  # seconds until a server takes requests
STOP_TIME = 30.0
NOISE = 0.03  # of the best throughput; results within it count as equal
CURVE = (1, 2, 4, 8, 16, 32, 64, 128)  # connections


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """How a model is served: at most ``batch`` requests in a batch, CPU ``threads`` for each of its ``replicas``."""

    batch: int
    threads: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Result:
    """A shape's result: ``idle`` with one connection, ``busy`` with enough to fill two batches of every replica."""

    shape: Shape
    idle: Measured
    busy: Measured


@dataclass(slots=True)
class Tuned:
    """All results. ``curves`` by name: that of the best shape, and that without batches."""

    results: list[Result]
    best: Shape
    latency: float | None
    curves: dict[str, list[Measured]] = field(default_factory=dict)


def tune(
    folder: Path,
    shapes: Sequence[Shape],
    seconds: float,
    latency: float | None = None,
    report: Callable[[str], None] = print,
) -> Tuned:
    """Measure every shape with a real server on loopback, then the curve of the best one.

    ``latency`` is in seconds; the best shape has the most throughput of those with a p99 within it. Raises ModelError.
    """
    need("tomlkit")
    requests = list(requests_of(folder))
    if not requests:
        raise ModelError(f"{folder} has no sample.* and no samples/: there is nothing to ask the model with")
    results = []
    for shape in shapes:
        with serving(folder, shape) as port:
            idle = flood(port, requests, 1, seconds / 2)
            busy = flood(port, requests, 2 * shape.batch * shape.replicas, seconds)
        if busy.failed or idle.failed:
            raise ModelError(
                f"{busy.failed + idle.failed} samples were not answered with 200; `serving check` says why"
            )
        results.append(Result(shape, idle, busy))
        report(f"{shape}: {busy.rate:,.0f} requests/s, p99 {busy.p99 * 1e3:.1f} ms")
    best = choose(results, latency)
    tuned = Tuned(results, best, latency)
    plain = Shape(1, best.threads, best.replicas)
    for name, shape in {f"batches up to {best.batch}": best, "no batches": plain}.items():
        if shape is best or best.batch > 1:
            tuned.curves[name] = curve(folder, shape, requests, seconds / 2)
    return tuned


def curve(folder: Path, shape: Shape, requests: Sequence[Request], seconds: float) -> list[Measured]:
    with serving(folder, shape) as port:
        return [flood(port, requests, connections, seconds) for connections in CURVE]


def choose(results: Sequence[Result], latency: float | None) -> Shape:
    """Return the shape with the most throughput; of equals that with the least resources.

    Raises ModelError where none has its p99 within ``latency`` seconds.
    """
    allowed = [one for one in results if latency is None or one.busy.p99 <= latency]
    if not allowed:
        least = min(results, key=lambda one: one.busy.p99)
        raise ModelError(
            f"no p99 was within {latency or 0:g} s; the least was {least.busy.p99:.4f} s with {least.shape}"
        )
    most = max(one.busy.rate for one in allowed)
    good = [one for one in allowed if one.busy.rate >= (1 - NOISE) * most]
    return min(good, key=lambda one: (one.shape.replicas * one.shape.threads, one.shape.batch)).shape


def grid(cores: int, batches: Sequence[int]) -> list[Shape]:
    """Return every batch size with every way to use the cores: more threads, or more replicas."""
    counts = sorted({1, *(2**power for power in range(1, cores.bit_length()) if 2**power <= cores), cores})
    ways = [(threads, replicas) for threads in counts for replicas in counts if threads * replicas <= cores]
    return [Shape(batch, threads, replicas) for threads, replicas in ways for batch in batches]


def table(tuned: Tuned) -> str:
    """Return a Markdown table with the best shape in bold."""
    lines = [
        "| batch | threads | replicas | requests/s | p50, ms | p99, ms | p50 of one alone, ms |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in tuned.results:
        shape, busy = one.shape, one.busy
        cells = [shape.batch, shape.threads, shape.replicas, f"{busy.rate:,.0f}"]
        cells += [f"{seconds * 1e3:.2f}" for seconds in (busy.p50, busy.p99, one.idle.p50)]
        mark = "**" if shape == tuned.best else ""
        lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
    return "\n".join(lines)


# The settings of a model.


def need(module: str) -> Any:
    """Import a module of the extra ``tune``. Raises ModelError without it."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise ModelError(f"{module} is missing; `pip install 'serving[tune]'` has what tuning needs") from exc


def with_batch(text: str, **values: float | None) -> str:
    """Return ``serving.toml`` with these keys of ``[batch]`` set, or removed for None; comments and the rest stay."""
    tomlkit = need("tomlkit")
    document: Any = tomlkit.parse(text)
    batch = document.setdefault("batch", tomlkit.table())
    for name, value in values.items():
        if value is not None:
            batch[name] = value
        elif name in batch:
            del batch[name]
    return str(tomlkit.dumps(document))


def write_best(folder: Path, tuned: Tuned) -> None:
    path = folder / SETTINGS
    text = path.read_text() if path.exists() else ""
    latency = None if tuned.latency is None else tuned.latency * 1e3
    written = with_batch(text, max_size=tuned.best.batch, **({} if latency is None else {"max_latency_ms": latency}))
    partial = path.with_name(f".{SETTINGS}.new")
    partial.write_text(written)
    partial.replace(path)


@contextmanager
def serving(folder: Path, shape: Shape) -> Iterator[int]:
    """Context with the port of a server of this model. Raises ModelError where it does not get ready."""
    with tempfile.TemporaryDirectory(prefix="serving-tune-") as scratch:
        copy = Path(scratch, "model")
        copy.mkdir()
        for path in folder.iterdir():
            if path.name != SETTINGS:
                (copy / path.name).symlink_to(path.resolve())
        own = folder / SETTINGS
        text = with_batch(own.read_text() if own.exists() else "", max_size=shape.batch, max_latency_ms=None)
        (copy / SETTINGS).write_text(without_shape(text))
        command = interpreter.command("serving", "serve", "--model-dir", str(copy), "--port", "0")
        command += ["--host", "127.0.0.1", "--threads", str(shape.threads), "--replicas", str(shape.replicas)]
        command += ["--log-format", "json", "--log-level", "info", "--queue-size", "100000"]
        log = Path(scratch, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=scratch)
        try:
            yield wait_ready(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIME)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def without_shape(text: str) -> str:
    """Return the model's settings without those that the command line sets."""
    tomlkit = need("tomlkit")
    document: Any = tomlkit.parse(text)
    for name in ("threads", "replicas"):
        document.pop(name, None)
    return str(tomlkit.dumps(document))


def wait_ready(process: subprocess.Popen[bytes], log: Path) -> int:
    give_up = time.monotonic() + READY_TIME
    port = 0
    while time.monotonic() < give_up and process.poll() is None:
        for line in log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("message") == "listening":
                port = int(entry["port"])
            if entry.get("message") == "the server is ready":
                return port
        time.sleep(0.05)
    tail = "\n".join(log.read_text().splitlines()[-5:])
    raise ModelError(f"the server of the model did not get ready:\n{tail}")
