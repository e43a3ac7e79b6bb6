"""Pairs: the ratio of throughput between two checkouts of this server, side by side in one run.

    python benchmarks/pairs.py --before ../old --seconds 3 --pairs 5

Both run the tiny model of compare.py under wrk. Each pair starts both servers afresh, in alternating order, and gives a
ratio; the medians of the ratios are printed. This checkout's Python runs both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import servers
import wrk
from servers import HERE, OURS, ROOT, Peer

CONNECTIONS = (1, 64, 512)


def of(checkout: Path) -> Peer:
    """Return a peer that is the server of another checkout, with this one's model."""

    def start(name: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
        os.environ["SERVING_CODE_DIR"] = str(HERE)
        (folder / "serving.toml").write_text(f'handler = "ours:Numbers"\n[options]\nname = "{name}"\n')
        words = ["-m", "serving", "serve", "--model-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        paths = f"{HERE}:{checkout.resolve()}"
        return servers.spawn([sys.executable, *words], name, port, folder, PYTHONPATH=paths)

    return Peer(str(checkout), None, start, OURS.ask)


def measure(peer: Peer, seconds: int) -> dict[int, float]:
    """Return requests per second by number of connections."""
    question = peer.ask("tiny")
    with tempfile.TemporaryDirectory() as scratch, servers.running(peer, "tiny", Path(scratch)) as server:
        wrk.saturate(server.port, question, CONNECTIONS[-1], 1, Path(scratch))
        return {
            connections: wrk.saturate(server.port, question, connections, seconds, Path(scratch))["rps"]
            for connections in CONNECTIONS
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure this checkout against another one.")
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    before, after = of(options.before), of(ROOT)
    ratios: dict[int, list[float]] = {connections: [] for connections in CONNECTIONS}
    rates: dict[int, list[tuple[float, float]]] = {connections: [] for connections in CONNECTIONS}
    for pair in range(options.pairs):
        order = (before, after) if pair % 2 == 0 else (after, before)
        found = {peer.name: measure(peer, options.seconds) for peer in order}
        for connections in CONNECTIONS:
            old, new = found[before.name][connections], found[after.name][connections]
            rates[connections].append((old, new))
            ratios[connections].append(new / old)
    print("| connections | before, requests/s | after, requests/s | ratio, median | ratios |")
    print("|---:|---:|---:|---:|---|")
    for connections in CONNECTIONS:
        old, new = (statistics.median(one) for one in zip(*rates[connections], strict=True))
        every = " ".join(f"{ratio:.2f}" for ratio in ratios[connections])
        print(f"| {connections} | {old:,.0f} | {new:,.0f} | {statistics.median(ratios[connections]):.2f} | {every} |")


if __name__ == "__main__":
    main()
