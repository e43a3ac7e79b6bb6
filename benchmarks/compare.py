"""This server and its peers side by side in one run, and the models alone in a loop. Prints Markdown tables.

    python benchmarks/compare.py --seconds 5 --repeats 3 --write

wrk makes the load. Every repeat starts each server afresh and goes through them in another order; a number is the
median of the repeats, and only ratios within one run mean much.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import servers
import workload
from serve import RESULTS, cpu_model, write_section
from servers import PEERS, Peer, Question

from serving.config import cores

CONNECTIONS = {"tiny": (1, 64, 512), "mlp": (1, 64), "encoder": (1, 64), "echo-1m": (8,), "echo-16m": (4,)}
LUA = """
local file = io.open("%s", "rb")
wrk.body = file:read("*all")
wrk.method = "POST"
%s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""

Row = dict[str, Any]


def load(port: int, question: Question, connections: int, seconds: float, folder: Path) -> Row:
    """Saturation by wrk: ``rps``, and latencies in milliseconds. Raises RuntimeError where an answer was none."""
    (folder / "body").write_bytes(question.body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in question.headers.items())
    (folder / "post.lua").write_text(LUA % (folder / "body", headers))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(folder / "post.lua")]
    url = f"http://127.0.0.1:{port}{question.path}"
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    found: Row = json.loads(re.findall(r"RESULT (.*)", said)[0])
    if found["errors"]:
        raise RuntimeError(f"{url}: {found['errors']} errors with {connections} connections")
    return {**found, "rps": found["requests"] / found["seconds"]}


def alone(name: str, seconds: float) -> float:
    """Decode, a batch of 32, encode, in this process; samples per second."""
    shape, model, body = workload.SHAPES[name], workload.build(name), workload.body_of(name)
    count = 0
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        outputs = workload.run(model, [shape.read(body) for _ in range(workload.MAX_BATCH)])
        for one in outputs:
            one.tobytes()
        count += workload.MAX_BATCH
    return count / spent


def measure(name: str, peer: Peer, options: argparse.Namespace) -> dict[str, Row]:
    """One server on one model, by what was measured."""
    question = peer.ask(name)
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with servers.running(peer, name, folder) as server:
            load(server.port, question, CONNECTIONS[name][-1], 1, folder)
            for connections in CONNECTIONS[name]:
                found[str(connections)] = load(server.port, question, connections, options.seconds, folder)
            found["start"] = {"seconds": server.seconds, "memory": servers.memory_of(server.pid)}
    return found


def run(name: str, peers: Sequence[Peer], options: argparse.Namespace) -> dict[str, list[dict[str, Row]]]:
    taking = [peer for peer in peers if name in peer.takes]
    results: dict[str, list[dict[str, Row]]] = {peer.name: [] for peer in taking}
    for repeat in range(options.repeats):
        for peer in taking if repeat % 2 == 0 else reversed(taking):
            results[peer.name].append(measure(name, peer, options))
    return results


def median(runs: Sequence[dict[str, Row]], what: str, key: str) -> float:
    return float(statistics.median(one[what][key] for one in runs))


def table(name: str, results: dict[str, list[dict[str, Row]]], limit: float | None) -> list[str]:
    counts = [str(count) for count in CONNECTIONS[name]]
    first = next(iter(results))
    head = [f"{count} conn. {what}" for count in counts for what in ("req/s", "p50 ms", "p99 ms", f"÷ {first}")]
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
    for name in options.models:
        limit = None if name.startswith("echo") else alone(name, options.seconds)
        lines += table(name, run(name, peers, options), limit)
    text = "\n".join(lines)
    print(text)
    if options.write:
        write_section(RESULTS, text, "peers", "Beside its peers")


if __name__ == "__main__":
    main()
