"""How a large body gets from one process to another: through the Unix socket, or in a memfd whose descriptor is sent.

    python benchmarks/bodies.py --repeats 5

One process fills a fresh buffer, as it would from a connection, and hands it over; the other one looks at every
page of it and answers one byte. Both ways take turns.
"""

from __future__ import annotations

import argparse
import mmap
import os
import socket
import statistics
import time
from collections.abc import Callable

import numpy as np

SIZES = (256 << 10, 1 << 20, 4 << 20, 16 << 20)
SECONDS = 1.0
PAGE = mmap.PAGESIZE


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


if __name__ == "__main__":
    main()
