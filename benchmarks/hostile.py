"""Hostile clients: each attack is a function of a server's port and folder that returns its open connections.

Loopback only, bounded in number and bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import os
import select
import signal
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

MIB = 1 << 20
POST = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\n"
SOCKET = (
    b"GET /invocations-bidirectional-stream HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PATIENCE = 10.0  # seconds, at most, for which one attack sends
TURN = 65_536  # bytes that one client sends at a time
TAR = tarfile.BLOCKSIZE


def connect(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(count)]


def push(clients: Iterable[socket.socket], data: bytes, times: int = 1) -> None:
    """Send ``data`` from each client ``times`` over, as far as the server reads it; closed connections are dropped."""
    left = {client: len(data) * times for client in clients}
    for client in left:
        client.setblocking(False)
    give_up = time.monotonic() + PATIENCE
    moved = time.monotonic()
    while left and time.monotonic() < min(give_up, moved + 2):
        for client in select.select([], list(left), [], 0.2)[1]:
            at = -left[client] % len(data)
            try:
                left[client] -= client.send(memoryview(data)[at : at + TURN])
            except BlockingIOError:
                continue
            except OSError:
                left[client] = 0
            moved = time.monotonic()
            if not left[client]:
                del left[client]


def post(body: bytes, kind: bytes = b"application/json") -> bytes:
    return POST % kind + b"content-length: %d\r\n\r\n" % len(body) + body


def ask(port: int, body: bytes, kind: str, count: int, headers: dict[str, str] | None = None) -> list[int]:
    """Send the same request ``count`` times at once and read the answers. Returns their statuses."""
    statuses: list[int] = []

    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/invocations", body, {"content-type": kind, **(headers or {})})
            with connection.getresponse() as answer:
                answer.read()
                statuses.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def warm(port: int, store: Path | None) -> None:
    """Let each process do its work once, so that first-time costs do not count for an attack."""
    names = [{}] if store is None else [{"x-amzn-sagemaker-target-model": one.name} for one in store.iterdir()]
    for name in names:
        assert ask(port, b"{}", "application/json", 4, name) == [200] * 4


# Of an HTTP worker.


def half_heads(port: int, scratch: Path) -> list[socket.socket]:
    clients = connect(port, 200)
    push(clients, b"GET / HTTP/1.1\r\nx: " + b"y" * 60_000)
    return clients


def trailers(port: int, scratch: Path) -> list[socket.socket]:
    clients = connect(port, 4)
    push(clients, POST % b"text/plain" + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    push(clients[:2], b"a:b\r\n" * 200_000, 30)
    push(clients[2:], b"c" * MIB, 30)
    return clients


def early_bodies(port: int, scratch: Path) -> list[socket.socket]:
    clients = connect(port, 20)
    push(clients, b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
    push(clients, bytes(MIB), 20)
    return clients


def unfinished_bodies(port: int, scratch: Path) -> list[socket.socket]:
    clients = connect(port, 40)
    push(clients, post(bytes(8 * MIB))[:-1])
    return clients


def pipelines(port: int, scratch: Path) -> list[socket.socket]:
    clients = connect(port, 100)
    push(clients, post(b'{"sleep": 5}'))
    push(clients, post(b"{}") * 10_000, 5)
    return clients


def unread_answers(port: int, scratch: Path) -> list[socket.socket]:
    clients = connect(port, 40)
    push(clients, post(b'{"bytes": 8388608}'))
    time.sleep(3)
    return clients


def unread_pieces(port: int, scratch: Path) -> list[socket.socket]:
    clients = connect(port, 40)
    push(clients, post(b'{"pieces": 100000}'))
    time.sleep(3)
    return clients


# Of WebSockets.


def frame(payload: bytes) -> bytes:
    """Return a whole message, masked with zeros."""
    return b"\x82" + struct.pack("!BQ", 0xFF, len(payload)) + bytes(4) + payload


def talkers(port: int, count: int, word: bytes) -> list[socket.socket]:
    clients = connect(port, count)
    for client in clients:
        client.sendall(SOCKET)
    for client in clients:
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        client.sendall(frame(word))
    return clients


def unread_messages(port: int, scratch: Path) -> list[socket.socket]:
    clients = talkers(port, 40, b"talk")
    time.sleep(3)
    return clients


def untaken_messages(port: int, scratch: Path) -> list[socket.socket]:
    clients = talkers(port, 40, b"sleep")
    push(clients, frame(bytes(1000)) * 100, 50)
    return clients


def half_messages(port: int, scratch: Path) -> list[socket.socket]:
    clients = talkers(port, 40, b"sleep")
    push(clients, frame(bytes(8 * MIB))[:-1])
    return clients


# Of a model's process.


def packed_arrays(port: int, scratch: Path) -> list[socket.socket]:
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.zeros(128 * MIB, np.uint8))
    ask(port, packed.getvalue(), "application/x-npz", 16)
    return []


def packed_json(port: int, scratch: Path) -> list[socket.socket]:
    ask(port, b"[" + b"{}," * MIB + b"{}]", "application/json", 16)
    return []


# Of PID 1.


def sparse(path: Path) -> None:
    """Write an archive of 1.6 MB with a sparse map of 500 million numbers, which it declares to be a file's."""
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    one = tarfile.TarInfo("f")
    one.size, one.pax_headers = 1 << 30, fields
    with gzip.open(path, "wb", 1) as file:
        file.write(one.tobuf(tarfile.PAX_FORMAT))
        block = b"500000000\n" + b"1\n" * (MIB // 2)
        for _ in range(200):
            file.write(block)


def crowded(path: Path) -> None:
    """Write a zip with two million entries in its directory."""
    entries = 2_000_000
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    one = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    size, at = len(one) * entries, len(local)
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, at)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, at + size, 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(local + one * entries + end)


def bomb(path: Path) -> None:
    """Write an archive of 2 GiB of zeros."""
    one = tarfile.TarInfo("f")
    one.size = 2 << 30
    with gzip.open(path, "wb", 9) as file:
        file.write(one.tobuf())
        for _ in range(one.size // MIB):
            file.write(bytes(MIB))


def archives(port: int, store: Path) -> list[socket.socket]:
    makers: dict[str, Callable[[Path], None]] = {"sparse.tar.gz": sparse, "crowded.zip": crowded, "bomb.tar.gz": bomb}
    for name, make in makers.items():
        make(store / name)
        found = ask(port, b"{}", "application/json", 1, {"x-amzn-sagemaker-target-model": name})
        assert found == [400], (name, found)
        (store / name).unlink()
    return []


# Of all of them, from inside.


def deaths(port: int, store: Path, workers: Callable[[], list[int]], count: int) -> None:
    """Kill workers until ``count`` have died; their models are requested again and again."""
    killed: set[int] = set()
    while len(killed) < count:
        warm(port, store)
        for pid in workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
