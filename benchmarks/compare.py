"""Compare: this server and its peers side by side in one run, and the models alone in a loop. Prints Markdown tables.

    python benchmarks/compare.py --seconds 5 --repeats 3 --write

wrk makes the saturating load; benchmarks/load.py sends at a fixed rate, where a latency counts from the moment a
request was due. Every repeat starts each server afresh, in another order; a number is the median of the repeats, and
only ratios within one run mean much. ``--write`` also draws the plots.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import plots
import servers
import workload
import wrk
from load import Exchange, Target, fixed_rate, saturated
from serve import RESULTS, cpu_model, write_section
from servers import PEERS, Peer, Question
from wrk import Row

from serving.config.config import cores

CONNECTIONS = {"tiny": (1, 64, 512), "mlp": (1, 64), "encoder": (1, 64), "echo-1m": (8,), "echo-16m": (4,)}
STEADY = {"tiny": 64, "mlp": 64, "encoder": 64}  # connections of the open loop, so also its most requests in flight
SHARE = 0.7  # of the same generator's saturated rate
STEADY_SECONDS = 4.0

Results = dict[str, list[dict[str, Row]]]  # by server, of each repeat, by what was measured


def alone(name: str, seconds: float) -> float:
    """Decode, run and encode batches of 32 in this process. Returns samples per second."""
    workload.keep(name)
    shape, model, body = workload.SHAPES[name], workload.build(name), workload.body_of(name)
    count = 0
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        outputs = workload.run(model, [shape.read(body) for _ in range(workload.MAX_BATCH)])
        for one in outputs:
            one.tobytes()
        count += workload.MAX_BATCH
    return count / spent


def steady(port: int, question: Question, connections: int) -> Row:
    """Measure with load.py, saturated and then at a share of that rate. Raises RuntimeError where a request failed."""
    target = Target("127.0.0.1", port, [Exchange(request_of(port, question))])
    gc.freeze()
    gc.disable()  # its pauses would count as the server's
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            most = runner.run(saturated(target, connections, STEADY_SECONDS / 2))
            found = runner.run(fixed_rate(target, connections, STEADY_SECONDS, SHARE * most.rps))
    finally:
        gc.enable()
    if most.errors or found.errors:
        raise RuntimeError(f"at a fixed rate: {most.errors or found.errors}")
    return dataclasses.asdict(found)


def request_of(port: int, question: Question) -> bytes:
    headers = {"host": f"127.0.0.1:{port}", "content-length": str(len(question.body)), **question.headers}
    lines = [f"POST {question.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + question.body


def attempt(peer: Peer, measure: Callable[[], Row]) -> Row:
    """Return the measurement; NaN where some requests failed."""
    try:
        return measure()
    except RuntimeError as exc:
        print(f"{peer.name}: {exc}", file=sys.stderr)
        return dict.fromkeys(("rps", "p50", "p99"), math.nan)


def measure(name: str, peer: Peer, options: argparse.Namespace) -> dict[str, Row]:
    """Measure one server with one model. Returns a row for each kind of load."""
    question = peer.ask(name)
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with servers.running(peer, name, folder) as server:

            def saturate(connections: int, seconds: int) -> Row:
                return attempt(peer, lambda: wrk.saturate(server.port, question, connections, seconds, folder))

            saturate(CONNECTIONS[name][-1], 1)
            for connections in CONNECTIONS[name]:
                found[str(connections)] = saturate(connections, options.seconds)
            if name in STEADY:
                found["steady"] = attempt(peer, lambda: steady(server.port, question, STEADY[name]))
            found["start"] = {"seconds": server.seconds, "memory": servers.memory_of(server.pid)}
    return found


def run(name: str, peers: Sequence[Peer], options: argparse.Namespace) -> Results:
    taking = [peer for peer in peers if name in peer.takes]
    results: Results = {peer.name: [] for peer in taking}
    for repeat in range(options.repeats):
        for peer in taking if repeat % 2 == 0 else reversed(taking):
            results[peer.name].append(measure(name, peer, options))
    return results


def median(runs: Sequence[dict[str, Row]], what: str, key: str) -> float:
    return float(statistics.median(one[what][key] for one in runs))


def table(name: str, results: Results, limit: float | None) -> list[str]:
    counts = [str(count) for count in CONNECTIONS[name]]
    first = next(iter(results))
    steadily = [f"{SHARE:.0%} of saturation {what}" for what in ("req/s", "p50 ms", "p99 ms", "p99 / p50")]
    head = [f"{count} conn. {what}" for count in counts for what in ("req/s", "p50 ms", "p99 ms", f"÷ {first}")]
    if name in STEADY:
        head += steadily
    lines = [
        f"**{name}**",
        "",
        f"| server | {' | '.join(head)} | start s | PSS MiB |",
        f"|---|{'---:|' * (len(head) + 2)}",
    ]
    for peer, runs in results.items():
        cells = []
        for count in counts:
            rps = median(runs, count, "rps")
            ratio = rps / median(results[first], count, "rps")
            cells += [
                f"{rps:,.0f}",
                f"{median(runs, count, 'p50'):.2f}",
                f"{median(runs, count, 'p99'):.2f}",
                f"{ratio:.2f}",
            ]
        if name in STEADY:
            rps, p50, p99 = (median(runs, "steady", key) for key in ("rps", "p50", "p99"))
            cells += [f"{rps:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{p99 / p50:.1f}"]
        start, memory = median(runs, "start", "seconds"), median(runs, "start", "memory") / (1 << 20)
        lines.append(f"| {peer} | {' | '.join(cells)} | {start:.1f} | {memory:.0f} |")
    if limit is not None:
        best = max(median(results[first], count, "rps") for count in counts)
        lines += [
            "",
            f"The model alone, batches of {workload.MAX_BATCH}: {limit:,.0f}/s; {first} reaches {best / limit:.0%}.",
        ]
    return [*lines, ""]


def versions(peers: Sequence[Peer]) -> str:
    found = [f"starlette {version('starlette')}", f"uvicorn {version('uvicorn')}", f"torch {torch.__version__}"]
    for peer in peers:
        if peer.package is not None:
            name = peer.package.split()[0]
            command = [
                servers.python(peer.package),
                "-c",
                f"import importlib.metadata as m; print(m.version({name!r}))",
            ]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            found.append(f"{name} {said}")
    return ", ".join(found)


def draw(everything: dict[str, Results], limits: dict[str, float]) -> None:
    rates: dict[str, dict[str, float]] = {}
    most: dict[str, float] = {}
    steadily: dict[str, dict[str, tuple[float, float]]] = {}
    for name, results in everything.items():
        count = "64" if 64 in CONNECTIONS[name] else str(CONNECTIONS[name][-1])
        title = f"{name}, {count} connections"
        rates[title] = {peer: median(runs, count, "rps") for peer, runs in results.items()}
        if name in limits:
            most[title] = limits[name]
        if name in STEADY:
            steadily[f"{name}, {SHARE:.0%} of saturation"] = {
                peer: (median(runs, "steady", "p50"), median(runs, "steady", "p99")) for peer, runs in results.items()
            }
    plots.throughput(rates, most, RESULTS.with_name("throughput.png"))
    plots.latency(steadily, RESULTS.with_name("latency.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure this server and its peers.")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(workload.SHAPES), choices=list(workload.SHAPES))
    parser.add_argument(
        "--peers", nargs="+", default=[peer.name for peer in PEERS], choices=[peer.name for peer in PEERS]
    )
    parser.add_argument("--write", action="store_true", help="keep the tables in benchmarks/RESULTS.md")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if peer.name in options.peers]
    torch.set_num_threads(cores())
    lines = [
        f"`python benchmarks/compare.py --seconds {options.seconds} --repeats {options.repeats}` on "
        f"{datetime.now(UTC).date().isoformat()}; {cpu_model()}, {cores()} cores, Python {platform.python_version()}, "
        f"{versions(peers)}. wrk and the servers share these cores. The peers batch up to {workload.MAX_BATCH} within"
        f" {1000 * workload.MAX_DELAY:g} ms, {peers[0].name} up to {workload.MAX_BATCH} at once. LitServe takes JSON.",
        "",
    ]
    everything, limits = {}, {}
    for name in options.models:
        if not name.startswith("echo"):
            limits[name] = alone(name, options.seconds)
        everything[name] = run(name, peers, options)
        lines += table(name, everything[name], limits.get(name))
        print(lines[-2], file=sys.stderr)
    text = "\n".join(lines)
    print(text)
    if options.write:
        draw(everything, limits)
        pictures = "![requests/s](throughput.png)\n\n![latency at a fixed rate](latency.png)"
        write_section(RESULTS, f"{text}\n{pictures}", "peers", "Beside its peers")


if __name__ == "__main__":
    main()
