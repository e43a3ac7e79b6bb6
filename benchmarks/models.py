"""Models: a store of many models under a memory budget: Zipf-distributed requests, cold loads, memory of each model.

python benchmarks/models.py --models 200 --requests 10000 --write

Every answer is checked. The memory of all processes that run models is read from /proc every 100 ms and compared with
the budget, and every decision that the server logs is repeated with the pure policy.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from serve import RESULTS, ROOT, environment, free_port, stop, write_section

from serving.supervisor.fleet.cache import Admit, Budget, Evict, Need, Resident, Stay, decide
from serving.system.memory import memory_of, resident

SIZES = (1, 4, 16)  # MB of weights
COLD_SIZE = 5  # MB of weights
TRIES = 20  # readings of all processes for one sample of their memory
OVERHEAD = 11 << 20  # bytes of a worker without its weights, to size the budget
SAMPLE = 0.02  # seconds between reads of /proc
EXPONENT = 1.0  # of the Zipf distribution
START_LIMIT = 60.0  # seconds


class Scale(torch.nn.Module):
    """A model that multiplies by its factor; its weights are ballast."""

    def __init__(self, factor: float, megabytes: int) -> None:
        super().__init__()
        self.ballast = torch.nn.Parameter(torch.ones(megabytes * 250_000))
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def make_store(store: Path, count: int, sizes: tuple[int, ...]) -> None:
    """Write TorchScript models m0 … of these sizes in turn; model n multiplies by n."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for n in range(count):
            folder = store / f"m{n}"
            folder.mkdir(parents=True)
            torch.jit.save(torch.jit.script(Scale(float(n), sizes[n % len(sizes)])), str(folder / "model.pt"))


@dataclass
class Server:
    process: subprocess.Popen[Any]
    port: int
    log: list[dict[str, Any]] = field(default_factory=list)
    fork_server: int = 0

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self.log.append(json.loads(line))

    def model_processes(self) -> list[int]:
        """Return the pids of the fork server and its workers, which the budget is about."""
        return [pid for pid in descendants(self.process.pid) if is_model_process(pid)]

    def memory(self) -> int | None:
        """Return their bytes: all of the fork server's, since its pages are shared, and each worker's private ones.

        Processes are read one after the other. Where one begins or ends meanwhile the sum is none of any instant: a
        model that has left and the one that came in its place would both count. Then they are read again, and None is
        returned if that never succeeds.
        """
        for _ in range(TRIES):
            forks, total = self.model_processes(), 0
            for pid in forks:
                with contextlib.suppress(OSError, KeyError):
                    # A sum of proportional shares would count pages twice whenever a process ends between two reads.
                    total += resident(pid) if pid == self.fork_server else memory_of(pid).private
            if self.model_processes() == forks:
                return total
        return None


def descendants(pid: int) -> list[int]:
    """Return the pids of all living descendants as the kernel lists them, which takes much less time than a search."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found + [one for child in found for one in descendants(child)]


def is_model_process(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"serving.worker.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@contextlib.contextmanager
def running(store: Path, *flags: str) -> Iterator[Server]:
    """Context with a fresh server over ``store`` and a cache of its own: it knows nothing of these models."""
    port = free_port()
    command = [sys.executable, "-m", "serving", "serve", "--store", str(store), "--host", "127.0.0.1"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": folder},
        )
        server = Server(process, port)
        reader = threading.Thread(target=server.read, daemon=True)
        reader.start()
        try:
            wait_ready(server)
            server.fork_server = server.model_processes()[0]
            yield server
            stop(process)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            reader.join(5)
            assert process.stdout is not None
            process.stdout.close()


def wait_ready(server: Server) -> None:
    give_up = time.monotonic() + START_LIMIT
    while not any(line.get("message") == "the server is ready" for line in list(server.log)):
        if time.monotonic() > give_up or server.process.poll() is not None:
            raise TimeoutError("the server did not become ready")
        time.sleep(0.02)


def ask(connection: http.client.HTTPConnection, n: int) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Target-Model": f"m{n}"}
    connection.request("POST", "/invocations", b"[1.0, 2.0]", headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@dataclass
class Zipf:
    """The results of a Zipf-distributed load."""

    statuses: dict[int, int] = field(default_factory=dict)
    wrong: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    loads: int = 0
    evictions: int = 0
    budget: int = 0
    peak: int = 0
    samples: int = 0
    replayed: int = 0
    different: int = 0


def zipf(models: int, requests: int, clients: int, fit: int) -> Zipf:
    """Send ``requests`` from ``clients`` to a store of ``models``, with a budget for ``fit`` of them."""
    found = Zipf()
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        store = Path(folder)
        make_store(store, models, SIZES)
        mean = sum(size * 1_000_000 for size in SIZES) // len(SIZES) + OVERHEAD
        with running(store) as empty:
            base = empty.memory() or 0
            assert base
        found.budget = base + fit * mean
        with running(store, "--host-memory", f"{found.budget}", "--log-level", "debug") as server:
            drive(server, found, models, requests, clients)
        lines = server.log
    found.loads = sum(line.get("message") == "model loaded" for line in lines)
    found.evictions = sum(line.get("message") == "evicting" for line in lines)
    replay(lines, found)
    return found


def drive(server: Server, found: Zipf, models: int, requests: int, clients: int) -> None:
    weights = [1 / (rank + 1) ** EXPONENT for rank in range(models)]
    order = random.Random(1).sample(range(models), models)
    wanted = random.Random(2).choices(order, weights, k=requests)
    lock, done = threading.Lock(), threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE):
            memory = server.memory()
            if memory is not None:
                found.peak = max(found.peak, memory)
                found.samples += 1

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=90)
        while True:
            with lock:
                if not wanted:
                    break
                n = wanted.pop()
            began = time.monotonic()
            status, body = ask(connection, n)
            took = time.monotonic() - began
            with lock:
                found.statuses[status] = found.statuses.get(status, 0) + 1
                found.wrong += status == 200 and json.loads(body) != [1.0 * n, 2.0 * n]
                found.latencies.append(took)
        connection.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        for one in [pool.submit(client) for _ in range(clients)]:
            one.result()
    found.seconds = time.monotonic() - started
    done.set()
    watcher.join()


def replay(lines: list[dict[str, Any]], found: Zipf) -> None:
    """Repeat every logged decision with the pure policy."""
    for line in lines:
        if line.get("message") != "admission":
            continue
        residents = [Resident(**{**one, "stay": Stay(one["stay"])}) for one in line["residents"]]
        decision = decide(Need(**line["need"]), residents, Budget(**line["budget"]))
        found.replayed += 1
        detail = line["detail"]
        same = type(decision).__name__.lower() == line["decision"]
        if isinstance(decision, Evict):
            same = same and list(decision.keys) == detail["keys"]
        if isinstance(decision, Admit):
            same = same and list(decision.devices) == detail["devices"]
        found.different += not same


def cold(repeats: int) -> list[float]:
    """Return the seconds of the first request to each of ``repeats`` unloaded models, one at a time."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        make_store(Path(folder), repeats, (COLD_SIZE,))
        with running(Path(folder)) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            seconds = []
            for n in range(repeats):
                began = time.monotonic()
                status, body = ask(connection, n)
                seconds.append(time.monotonic() - began)
                assert (status, json.loads(body)) == (200, [1.0 * n, 2.0 * n]), body
            connection.close()
    return seconds


def private(count: int) -> list[int]:
    """Return the private bytes of each process of ``count`` loaded small models that have answered."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        make_store(Path(folder), count, (0,))
        with running(Path(folder)) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            for n in range(count):
                assert ask(connection, n)[0] == 200
            connection.close()
            forks = server.model_processes()
            workers = [pid for pid in forks if len(list(Path(f"/proc/{pid}/task").iterdir())) > 1]
            assert len(workers) == count
            return [memory_of(pid).private for pid in workers]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def table(found: Zipf, colds: list[float], privates: list[int], options: argparse.Namespace) -> str:
    where = environment(0, 1)
    mib = 2**20
    hits = 1 - found.loads / options.requests
    by_status = ", ".join(f"{count:,} x {status}" for status, count in sorted(found.statuses.items()))
    p50, p99 = (percentile(found.latencies, share) * 1e3 for share in (0.5, 0.99))
    cold_p50, cold_max = statistics.median(colds) * 1e3, max(colds) * 1e3
    private_p50, private_max = statistics.median(privates) / 1e6, max(privates) / 1e6
    rows = [
        ("requests, by status", by_status),
        ("wrong answers", f"{found.wrong}"),
        ("requests/s", f"{options.requests / found.seconds:,.0f}"),
        ("latency p50 / p99, ms", f"{p50:.1f} / {p99:.0f}"),
        ("loads, evictions, hit rate", f"{found.loads:,}, {found.evictions:,}, {hits:.1%}"),
        (f"budget, highest of {found.samples} samples, MiB", f"{found.budget / mib:.0f}, {found.peak / mib:.0f}"),
        ("decisions made again by the pure policy, different", f"{found.replayed:,}, {found.different}"),
        (f"first request to a {COLD_SIZE} MB TorchScript model, p50 / max, ms", f"{cold_p50:.0f} / {cold_max:.0f}"),
        (f"private memory of {len(privates)} small models, p50 / max, MB", f"{private_p50:.1f} / {private_max:.1f}"),
    ]
    head = (
        f"`python benchmarks/models.py --models {options.models} --requests {options.requests}` on {where['date']}; "
        f"cpu {where['cpu']}; cores {where['cores']}; python {where['python']}; torch {where['torch']}. "
        f"{options.models} models of {', '.join(map(str, SIZES))} MB, a budget for {options.fit}, "
        f"{options.clients} clients on the same cores, Zipf exponent {EXPONENT:g}.\n"
    )
    return "\n".join([head, "| what | measured |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a store of many models under a memory budget.")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--fit", type=int, default=20, help="so many models fit into the budget")
    parser.add_argument("--cold", type=int, default=30, help="first requests to measure")
    parser.add_argument("--loaded", type=int, default=100, help="small models whose memory is measured")
    parser.add_argument("--json", action="store_true", help="print what was found for a program")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    found = zipf(options.models, options.requests, options.clients, options.fit)
    colds, privates = cold(options.cold), private(options.loaded)
    if options.json:
        plain = {**vars(found), "latencies": [], "cold": statistics.median(colds), "private": max(privates)}
        print(json.dumps(plain))
        return
    text = table(found, colds, privates, options)
    print(text)
    if options.write:
        write_section(RESULTS, text, "models", "Many models")


if __name__ == "__main__":
    main()
