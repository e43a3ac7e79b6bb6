"""Overload: what is answered in time, and killed, under more load than a model can carry.

python benchmarks/overload.py --before ../other-checkout --write

The model only sleeps, so that its capacity is known. Its times are short, but in the same ratio to the time-out as
those of a model that takes 0.5, 1 or 10 s a batch and has 60 s. Requests arrive at random, whatever the server does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop
from serve import RESULTS, ROOT, environment, free_port, stop, wait_ready, write_section

HANDLER = """
import time
from serving import Handler

class Waits(Handler):
    def load(self, model_dir, device, seconds=0.0):
        self.seconds = seconds

    def decode(self, request):
        return 0

    def bucket(self, sample):
        return 0

    def predict(self, batch):
        time.sleep(self.seconds)
        return batch

    def encode(self, output, request):
        return b"x"
"""
BATCHES = ((0.05, 6.0), (0.05, 3.0), (0.5, 3.0))  # seconds of a batch and of the time-out
SIZES = (1, 8)
LOADS = (2, 4, 10)  # times the capacity
BEFORE = 2.0  # times the time-out before counting starts: by then the queue has its full length
COUNTED = 5.0  # seconds
TOGETHER = 500.0  # requests a second that one client can send to two servers
FILES = 8192  # open files, more than the connections need
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
REQUEST = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 1\r\n\r\nx"
Row = tuple[str, str]


class Connection(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self) -> None:
        self._data = b""
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self) -> asyncio.Future[int]:
        """Send a request. Returns a future of the answer's status, 0 where the connection is lost."""
        self._data, self._answer = b"", asyncio.get_running_loop().create_future()
        self._transport.write(REQUEST)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if found and length is not None and len(body) >= int(length[1]) and self._answer is not None:
            self._settle(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(0)

    def _settle(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def close(self) -> None:
        self._transport.close()


@dataclass
class Flood:
    """One run. ``answers`` counts the statuses of the counted period; ``slowest`` and ``timeout`` are in seconds."""

    port: int
    rate: float
    timeout: float
    answers: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    _free: deque[Connection] = field(default_factory=deque)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, seed: int) -> Flood:
        dice, began = random.Random(seed), time.monotonic()
        at = began
        while (at := at + dice.expovariate(self.rate)) < began + BEFORE * self.timeout + COUNTED:
            if (wait := at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._ask(began))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * self.timeout)
        for connection in self._free:
            connection.close()
        return self

    async def _ask(self, began: float) -> None:
        started = time.monotonic()
        status = 0
        with contextlib.suppress(OSError):
            connection = self._free.pop() if self._free else await self._connect()
            status = await connection.ask()
            if status:
                self._free.append(connection)
        now = time.monotonic()
        self.slowest = max(self.slowest, now - started)
        if 0 < now - began - BEFORE * self.timeout <= COUNTED:
            self.answers[status] += 1

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
        return connection


@contextlib.contextmanager
def running(root: Path, folder: Path, log: Path) -> Iterator[int]:
    """Context with the port of a server of a checkout."""
    port = free_port()
    command = [sys.executable, "-m", "serving", "serve", "--model-dir", str(folder), "--host", "127.0.0.1"]
    variables = os.environ | {"PYTHONPATH": str(root)}
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=file, stderr=file, cwd=root, env=variables)
        try:
            wait_ready(process, port)
            yield port
        finally:
            stop(process)


@dataclass
class Cell:
    """The result of one server under one load."""

    goodput: float
    kills: int
    slowest: float
    answers: Counter[int]


def measure(roots: list[Path], seconds: float, timeout: float, size: int, load: float) -> list[Cell]:
    """Measure all checkouts with the same arrivals, at the same time if one client can send that much."""
    capacity = size / seconds
    if len(roots) > 1 and load * capacity > TOGETHER:
        return [cell for root in roots for cell in measure([root], seconds, timeout, size, load)]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch, "model")
        (folder / "code").mkdir(parents=True)
        (folder / "code" / "inference.py").write_text(HANDLER)
        (folder / "serving.toml").write_text(
            f'handler = "inference:Waits"\ntimeout_s = {timeout}\n[options]\nseconds = {seconds}\n'
            f"[batch]\nmax_size = {size}\n"
        )
        logs = [Path(scratch, f"log{n}") for n in range(len(roots))]
        ports = [stack.enter_context(running(root, folder, log)) for root, log in zip(roots, logs, strict=True)]

        async def flood() -> list[Flood]:
            return list(await asyncio.gather(*(Flood(port, load * capacity, timeout).run(seed=size) for port in ports)))

        floods = uvloop.run(flood())
        kills = [log.read_text().count('"ending a worker"') for log in logs]
    return [
        Cell(one.answers[200] / (capacity * COUNTED), killed, one.slowest, one.answers)
        for one, killed in zip(floods, kills, strict=True)
    ]


def row(seconds: float, timeout: float, size: int, load: float, cells: list[Cell]) -> str:
    name = f"{seconds:g} of {timeout:g}"
    found = (f"{cell.goodput:.0%} | {cell.kills} | {cell.slowest:.2f}" for cell in cells)
    return f"| {name} | {size} | {load} x | {' | '.join(found)} |"


def table(roots: list[Path]) -> str:
    names = ("before", "now") if len(roots) == 2 else ("now",)
    heads = [f"{name}: answered in time, of the capacity | kills | slowest answer, s" for name in names]
    lines = [
        f"| batch and time-out, s | max_size | load | {' | '.join(heads)} |",
        "|---:|---:|---:" + "|---:" * 3 * len(roots) + "|",
    ]
    for seconds, timeout in BATCHES:
        for size in SIZES:
            for load in LOADS:
                cells = measure(roots, seconds, timeout, size, load)
                lines.append(row(seconds, timeout, size, load, cells))
                print(lines[-1], [dict(cell.answers) for cell in cells], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what is answered in time under too much load.")
    parser.add_argument("--before", type=Path, help="another checkout, measured at the same time")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    roots = [options.before.resolve(), ROOT] if options.before is not None else [ROOT]
    where = environment(COUNTED, 1)
    facts = "; ".join(f"{name} {value}" for name, value in where.items() if name not in ("date", "command"))
    text = "\n".join(
        [
            f"`python benchmarks/overload.py` on {where['date']}; {facts}; client on the same cores, "
            f"counted for {COUNTED:g} s after {BEFORE:g} time-outs.",
            "",
            table(roots),
        ]
    )
    print(text)
    if options.write:
        write_section(RESULTS, text, "overload", "More load than can be carried")


if __name__ == "__main__":
    main()
