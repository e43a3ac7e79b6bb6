"""Cost: the CPU time of one request in each of the server's processes, in microseconds.

    python benchmarks/cost.py [--model tiny] [--connections 64] [--seconds 5] [--workers 1]

The kernel counts CPU time, so other load on the machine distorts it less than a rate.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import servers
import workload
import wrk
from servers import Peer
from wrk import Row

TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # microseconds


def processes(root: int) -> dict[int, str]:
    """Return the kind of a process and of each of its descendants, by pid."""
    children: dict[int, list[int]] = {}
    names = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found: dict[int, str] = {}
    todo = [root]
    while todo:
        pid = todo.pop()
        found[pid] = role(names.get(pid, ""), pid, found)
        todo += children.get(pid, [])
    return found


def role(command: str, pid: int, found: dict[int, str]) -> str:
    for word, name in (("serving.frontend.server", "http"), ("forkserver", "worker")):
        if word in command:
            return name
    return "supervisor"


def spent(pid: int) -> float:
    """Return the microseconds of CPU, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def measure(peer: Peer, model: str, connections: int, seconds: int) -> tuple[Row, dict[str, float]]:
    """Return wrk's result, and the microseconds of CPU for one request by kind of process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with servers.running(peer, model, folder) as server:
            question = peer.ask(model)
            wrk.saturate(server.port, question, connections, 1, folder)
            found = processes(server.pid)
            before = {pid: spent(pid) for pid in found}
            row = wrk.saturate(server.port, question, connections, seconds, folder)
            totals: dict[str, float] = {}
            for pid, name in found.items():
                totals[name] = totals.get(name, 0.0) + (spent(pid) - before[pid]) / row["requests"]
    return row, totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=sorted(workload.SHAPES))
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    os.environ["SERVING_HTTP_WORKERS"] = str(options.workers)
    row, totals = measure(servers.OURS, options.model, options.connections, options.seconds)
    print(f"{row['rps']:,.0f} requests/s, p50 {row['p50']:.2f} ms, p99 {row['p99']:.2f} ms")
    for name, value in totals.items():
        print(f"{name}: {value:.1f} us per request")


if __name__ == "__main__":
    main()
