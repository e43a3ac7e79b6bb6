"""Streams: streams and WebSockets: the delay of a chunk, their number, and the cost of slow readers.

python benchmarks/streams.py --write

Each chunk is the time at which the handler made it, on the clock that client and server share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from serve import RESULTS, ROOT, environment, free_port, stop, wait_ready, write_section
from start import children, pss
from websockets.asyncio.client import connect

HANDLER = """
import asyncio, time
from serving import Handler

class Base(Handler):
    def decode(self, request):
        n, delay, size = bytes(request.body).split()
        return int(n), float(delay), int(size)

    def predict(self, batch):
        return batch

    async def converse(self, stream):
        async for message in stream:
            await stream.send(message.data)

class Sync(Base):
    def encode(self, output, request):
        n, delay, size = output
        for _ in range(n):
            time.sleep(delay)
            yield f"{time.monotonic():.7f}\\n".rjust(size)

class Async(Base):
    async def encode(self, output, request):
        n, delay, size = output
        for _ in range(n):
            await asyncio.sleep(delay)
            yield f"{time.monotonic():.7f}\\n".rjust(size)
"""
Row = tuple[str, str]


@contextlib.contextmanager
def running(folder: Path, kind: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Context with a server with the handler ``kind``: its port and process."""
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "pieces.py").write_text(HANDLER)
    (folder / "serving.toml").write_text(f'handler = "pieces:{kind}"\n')
    port = free_port()
    command = [sys.executable, "-m", "serving", "serve", "--model-dir", str(folder), "--port", str(port)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1"], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_ready(process, port)
        yield port, process
        stop(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def request(n: int, delay: float, size: int = 0) -> bytes:
    body = f"{n} {delay} {size}".encode()
    return b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def read_pieces(port: int, n: int, delay: float, pause: float = 0.0) -> list[float]:
    """Return the seconds by which each chunk was late; the request is sent after ``pause`` seconds."""
    await asyncio.sleep(pause)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(n, delay))
    late = []
    try:
        async with asyncio.timeout(120):
            while not (line := await reader.readline()).startswith(b"0\r"):
                if b"." in line and not line.startswith(b"date"):
                    with contextlib.suppress(ValueError):
                        late.append(time.monotonic() - float(line))
    finally:
        writer.close()
    if len(late) != n:
        raise ValueError(f"{len(late)} pieces of {n}")
    return late


async def lateness(port: int, streams: int, n: int, delay: float) -> tuple[float, float, float]:
    """Return milliseconds: the first chunk's median, that of all, and their 99th percentile.

    New streams begin so often that ``streams`` of them are running.
    """
    apart = n * delay / streams
    found = await asyncio.gather(*(read_pieces(port, n, delay, i * apart) for i in range(max(50, 2 * streams))))
    every = sorted(one for late in found for one in late)
    first = statistics.median(late[0] for late in found)
    return first * 1e3, statistics.median(every) * 1e3, every[int(0.99 * len(every))] * 1e3


async def rate(port: int, streams: int, n: int) -> float:
    """Return chunks a second where the handler never waits."""
    started = time.monotonic()
    await asyncio.gather(*(read_pieces(port, n, 0.0) for _ in range(streams)))
    return streams * n / (time.monotonic() - started)


async def round_trips(port: int, sockets: int, n: int) -> tuple[float, float]:
    """Return the median round trip of a small message in milliseconds, and messages a second over all WebSockets."""
    times: list[float] = []

    async def talk() -> None:
        url = f"ws://127.0.0.1:{port}/invocations-bidirectional-stream"
        async with connect(url, compression=None, open_timeout=30) as one:
            for _ in range(n):
                started = time.monotonic()
                await one.send("hello")
                await one.recv()
                times.append(time.monotonic() - started)

    started = time.monotonic()
    await asyncio.gather(*(talk() for _ in range(sockets)))
    return statistics.median(times) * 1e3, len(times) / (time.monotonic() - started)


def slow_readers(port: int, process: subprocess.Popen[bytes], count: int) -> float:
    """Return the KiB that each client costs the server that requests 20 MB and reads nothing."""
    everyone = [process.pid, *children(process.pid)]
    before = sum(map(pss, everyone))
    sockets = []
    try:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(request(2000, 0.0, 10_000))
            sockets.append(one)
        for one in sockets:
            one.recv(10)
        asyncio.run(read_pieces(port, 10, 0.0))
        return (sum(map(pss, everyone)) - before) / 1024 / count
    finally:
        for one in sockets:
            one.close()


def measure(kind: str, folder: Path) -> list[Row]:
    rows = []
    with running(folder, kind) as (port, process):
        asyncio.run(read_pieces(port, 10, 0.0))
        for streams, delay in ((1, 0.01),) if kind == "Sync" else ((1, 0.01), (20, 0.05), (100, 0.1)):
            first, median, worst = asyncio.run(lateness(port, streams, 20, delay))
            name = (
                f"{kind.lower()}, {streams} at a time, pieces {delay * 1e3:g} ms apart: first p50 / p50 / p99 late, ms"
            )
            rows.append((name, f"{first:.2f} / {median:.2f} / {worst:.2f}"))
        rows.append((f"{kind.lower()} generators, 32 at a time: pieces/s", f"{asyncio.run(rate(port, 32, 500)):,.0f}"))
        if kind == "Async":
            for sockets in (1, 100):
                trip, every = asyncio.run(round_trips(port, sockets, 2000 // sockets))
                rows.append((f"WebSockets, {sockets}: round trip p50, ms / messages/s", f"{trip:.2f} / {every:,.0f}"))
        rows.append(
            (f"{kind.lower()}, 200 readers that read nothing: KiB each", f"{slow_readers(port, process, 200):.0f}")
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure answers in pieces and WebSockets.")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/RESULTS.md")
    options = parser.parse_args()
    rows: list[Row] = []
    for kind in ("Sync", "Async"):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(kind, Path(folder))
    where = environment(0, 1)
    lines = [f"`python benchmarks/streams.py` on {where['date']}; cpu {where['cpu']}; "]
    lines[0] += f"cores {where['cores']}; python {where['python']}; torch {where['torch']}; client on the same cores.\n"
    lines += ["| what | measured |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]
    text = "\n".join(lines)
    print(text)
    if options.write:
        write_section(RESULTS, text, "streams", "Answers in pieces")


if __name__ == "__main__":
    main()
