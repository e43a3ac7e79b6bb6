"""Bodies: two ways for a large body between processes: the Unix socket, or a memfd whose descriptor is sent.

    python benchmarks/bodies.py --repeats 5

One process fills a fresh buffer, as if from a connection, and hands it over; the other one reads every page of it and
answers with one byte. Both ways take turns. Then the server itself: the memory of all its processes while many large
bodies arrive at once.
"""

from __future__ import annotations

import argparse
import mmap
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import servers

SIZES = (256 << 10, 1 << 20, 4 << 20, 16 << 20)
SECONDS = 1.0
PAGE = mmap.PAGESIZE
AT_ONCE, LARGE = 64, 25_000_000
MIB = 1 << 20


def receive(connection: socket.socket, size: int) -> bytearray:
    body = bytearray(size)
    rest = memoryview(body)
    while rest:
        n = connection.recv_into(rest)
        if not n:
            raise EOFError
        rest = rest[n:]
    return body


def look(body: bytearray | mmap.mmap) -> None:
    np.frombuffer(body, np.uint8)[::PAGE].sum()


def take_streams(connection: socket.socket, size: int) -> None:
    while True:
        look(receive(connection, size))
        connection.send(b"k")


def take_memfds(connection: socket.socket, size: int) -> None:
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        if not data:
            return
        with_body = mmap.mmap(descriptors[0], size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        os.close(descriptors[0])
        look(with_body)
        connection.send(b"k")


def by_stream(connection: socket.socket, client: bytes) -> None:
    body = bytearray(len(client))
    body[:] = client
    connection.sendall(body)
    connection.recv(1)


def by_memfd(connection: socket.socket, client: bytes) -> None:
    descriptor = os.memfd_create("body", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, len(client))
    body = mmap.mmap(descriptor, len(client))
    body[:] = client
    socket.send_fds(connection, [b"f"], [descriptor])
    os.close(descriptor)
    connection.recv(1)


def rate(give: Callable[[socket.socket, bytes], None], take: Callable[[socket.socket, int], None], size: int) -> float:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            take(theirs, size)
        except EOFError:
            pass
        finally:
            os._exit(0)
    theirs.close()
    client = os.urandom(size)
    give(ours, client)
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < SECONDS:
        give(ours, client)
        count += 1
    ours.close()
    os.waitpid(pid, 0)
    return count / spent


def crowd() -> str:
    """Measure 64 bodies of 25 MB at once, sent to a model that reads their first bytes."""
    said: Counter[int] = Counter()
    body = bytes(LARGE)

    def ask(port: int) -> None:
        question = f"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: {servers.BYTES}\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(f"{question}content-length: {len(body)}\r\n\r\n".encode())
            connection.sendall(body)
            said[int(connection.recv(4096).split()[1])] += 1

    with tempfile.TemporaryDirectory() as scratch, servers.running(servers.OURS, "tiny", Path(scratch)) as server:
        before = most = servers.memory_of(server.pid)
        threads = [threading.Thread(target=ask, args=(server.port,)) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, servers.memory_of(server.pid))
        time.sleep(5)
        after = servers.memory_of(server.pid)
    return (
        f"{AT_ONCE} bodies of {LARGE / 1e6:g} MB at once, {dict(said)} answers by status: all processes together held "
        f"{before // MIB:,} MiB before, {most // MIB:,} MiB at most, {after // MIB:,} MiB five seconds later."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two ways for a body.")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| body | through the socket, /s | in a memfd, /s | ratio |\n|---:|---:|---:|---:|")
    for size in SIZES:
        found: dict[str, list[float]] = {"stream": [], "memfd": []}
        for _ in range(options.repeats):
            found["stream"].append(rate(by_stream, take_streams, size))
            found["memfd"].append(rate(by_memfd, take_memfds, size))
        stream, memfd = statistics.median(found["stream"]), statistics.median(found["memfd"])
        print(f"| {size >> 10:,} KiB | {stream:,.0f} | {memfd:,.0f} | {memfd / stream:.2f} |")
    print(f"\n{crowd()}")


if __name__ == "__main__":
    main()
