"""Spares: what a spare worker saves at the first request to a model, and at the next one after its worker was killed.

    python benchmarks/gpu/spares.py --repeats 5 --write

The model is tiny, so that nearly all that is measured is not its weights. Without a GPU it runs on the CPU, which only
shows that it runs; then it writes nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import Server, ask, running
from rows import Rows
from throughput import HERE

LIMIT = 60.0  # seconds for a spare to become ready
MODEL = "m0"
COLUMNS = {
    "spares": ("spares on each device", "{:d}"),
    "first": ("first request to a model, ms", "{:.0f}"),
    "following": ("from SIGKILL of its worker to the next answer, ms", "{:.0f}"),
}


def make_store(store: Path) -> None:
    (store / MODEL / "code").mkdir(parents=True)
    shutil.copy(HERE / "tiny.py", store / MODEL / "code")
    (store / MODEL / "serving.toml").write_text('handler = "tiny:Tiny"\n')


def wait_spare(server: Server, nth: int) -> None:
    """Wait for the spare number ``nth``. Raises TimeoutError."""
    give_up = time.monotonic() + LIMIT
    while sum(line.get("message") == "a spare is ready" for line in list(server.log)) < nth:
        if time.monotonic() > give_up:
            raise TimeoutError("there is no spare")
        time.sleep(0.01)


def answer(server: Server) -> float:
    """Return the seconds until one request is answered."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    status, body = ask(connection, 0)
    connection.close()
    if status != 200:
        raise RuntimeError(f"status {status}: {body[:200]!r}")
    return time.monotonic() - began


def worker(server: Server) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/models/{MODEL}")
    pid = json.loads(connection.getresponse().read())["replicas"][0]["pid"]
    connection.close()
    return int(pid)


def measure(store: Path, spares: int) -> tuple[float, float]:
    """Return the seconds of the first request to a model, and of the next after its worker was killed."""
    with running(store, "--spares", str(spares), "--local") as server:
        wait_spare(server, spares)
        first = answer(server)
        wait_spare(server, 2 * spares)
        os.kill(worker(server), signal.SIGKILL)
        return first, answer(server)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a spare worker saves.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    parser.add_argument("--json", type=Path, help="a file that grows by each row")
    options = parser.parse_args()
    rows = Rows("spares", f"a tiny model, medians of {options.repeats} fresh servers.", COLUMNS, options.json)
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder))
        for spares in (0, 1):
            firsts, nexts = zip(*(measure(Path(folder), spares) for _ in range(options.repeats)), strict=True)
            rows.add(spares=spares, first=statistics.median(firsts) * 1e3, following=statistics.median(nexts) * 1e3)
    if options.write:
        rows.write("gpu-spares", "What a spare worker saves")


if __name__ == "__main__":
    main()
