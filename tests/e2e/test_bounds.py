"""What clients hold of an HTTP worker's memory: who brings nothing, or reads nothing, goes before anybody honest."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from serving.system.memory import KEPT, memory_of
from serving.worker.io.engineside import UNSENT
from tests.e2e.client import Answer, once
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.test_exchanges import answer, connect, post

MEGABYTE = 1_000_000
MEMORY = 48 * MEGABYTE  # of which bodies and answers get a half, since each is held twice
ROOM = MEMORY // 2
SLACK = 14 * MEGABYTE  # what parsing and sockets take beside it
MOST = 2 * ROOM + KEPT + SLACK  # the allocator keeps what was freed while there are more


@dataclass(frozen=True)
class Tight:
    """A server with little room; ``before`` is what its HTTP worker held at first, in bytes."""

    server: Server
    before: int

    def above(self) -> int:
        return held(self.server) - self.before


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tight]:
    folder = model_folder(tmp_path_factory.mktemp("tight"), "sizes:Sizes")
    with serving(folder, http_workers=1, body_memory=MEMORY, request_timeout=20) as server:
        try_again(server, post(b"1"), 10)
        yield Tight(server, held(server))


def http_worker(server: Server) -> int:
    """The one HTTP worker: a child of the HTTP master."""
    [pid] = [
        pid
        for pid in server.children()
        if b"serving.frontend.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] != str(server.process.pid)
    ]
    return pid


def held(server: Server) -> int:
    return memory_of(http_worker(server)).private


def send_until_full(connection: socket.socket, data: bytes, seconds: float = 1.0) -> None:
    """As much as the server takes; it may answer and close before the end."""
    connection.settimeout(seconds)
    with contextlib.suppress(OSError):
        connection.sendall(data)


def chunked(body: bytes) -> bytes:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def try_again(server: Server, data: bytes, seconds: float) -> tuple[bytes, float]:
    """Send a request until it is not told to come back; its answer, and how long that took."""
    began = time.monotonic()
    while True:
        with connect(server) as connection:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            status, _, body = answer(connection)
        if status != 503:
            assert status == 200
            return body, time.monotonic() - began
        assert b"bodies_full" in body
        assert time.monotonic() < began + seconds, "locked out"


@pytest.mark.parametrize("brought", [1, 70_000, 900_000, 2_900_000])
@pytest.mark.parametrize("frame", [post, chunked])
def test_bodies_that_stand_still_lock_nobody_out(tight: Tight, brought: int, frame: object) -> None:
    """However much each of them has brought, and however its length is told."""
    assert callable(frame)
    with contextlib.ExitStack() as stack:
        for _ in range(24):
            one = stack.enter_context(connect(tight.server))
            send_until_full(one, frame(bytes(3 * MEGABYTE))[:brought])
        body, _ = try_again(tight.server, post(os.urandom(4 * MEGABYTE)), 6)
        assert body == b"4000000"


def test_a_body_that_trickles_goes_before_one_that_moves(tight: Tight) -> None:
    data = post(os.urandom(8 * MEGABYTE))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(tight.server)) for _ in range(3)]
        for one in slow:
            send_until_full(one, data[:7_000_000])
        began, at = time.monotonic(), 7_000_000

        def trickle() -> bool:
            nonlocal at
            at += 100
            for one in slow:
                with contextlib.suppress(OSError):
                    one.sendall(data[at - 100 : at])
            with connect(tight.server) as honest:
                honest.settimeout(10)
                with contextlib.suppress(ConnectionError):
                    honest.sendall(data)
                return answer(honest)[0] == 200

        eventually(trickle, 8)
        assert time.monotonic() - began < 8


def test_memory_is_bounded_while_bodies_come_and_comes_back(tight: Tight) -> None:
    peak = 0
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            send_until_full(stack.enter_context(connect(tight.server)), post(os.urandom(8 * MEGABYTE))[:-1])
            peak = max(peak, tight.above())
    print(f"peak: {peak / MEGABYTE:.0f} MB more")
    assert peak < MOST
    eventually(lambda: tight.above() < SLACK, 15)


def test_answers_that_nobody_reads_are_bounded_and_those_that_are_read_come(tight: Tight) -> None:
    size = 8 * MEGABYTE
    peak = 0
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(10)
            one.connect(("127.0.0.1", tight.server.port))
            one.sendall(post(b"%d" % size))
            assert one.recv(12, socket.MSG_PEEK)
            peak = max(peak, tight.above())
        print(f"peak: {peak / MEGABYTE:.0f} MB more")
        assert peak < MOST
        body, _ = try_again(tight.server, post(b"%d" % size), 8)
        assert len(body) == size
    eventually(lambda: tight.above() < SLACK, 15)


def test_a_model_worker_makes_no_more_answers_than_leave_it(tmp_path: Path) -> None:
    """All wait behind one that takes a while, in which the HTTP worker stops, so that none is taken."""
    size, count = 8 * MEGABYTE, 60
    with (
        serving(model_folder(tmp_path, "sizes:Late"), http_workers=1, request_timeout=20) as server,
        contextlib.ExitStack() as stack,
    ):
        try_again(server, post(b"1"), 10)
        [worker] = server.workers()
        before = memory_of(worker).private
        connections = [stack.enter_context(connect(server)) for _ in range(count + 1)]
        for number, one in enumerate(connections):
            one.sendall(post(b"%d" % (size if number else 0)))
        eventually(lambda: server.metric("requests_queued") >= count - 1)
        os.kill(http_worker(server), signal.SIGSTOP)
        try:
            eventually(lambda: memory_of(worker).peak - before > UNSENT / 2)
            until = time.monotonic() + 1.5  # in which all of them would be made
            eventually(lambda: time.monotonic() > until)
        finally:
            os.kill(http_worker(server), signal.SIGCONT)
        peak = memory_of(worker).peak - before
        print(f"peak: {peak / MEGABYTE:.0f} MB more")
        assert peak < UNSENT + 5 * size + KEPT
        assert all(one.recv(12, socket.MSG_PEEK) for one in connections)


def test_a_body_whose_time_is_over_lets_go_of_its_memory_while_its_client_stays(tmp_path: Path) -> None:
    size = 40 * MEGABYTE
    with serving(model_folder(tmp_path, "sizes:Sizes"), http_workers=1, request_timeout=1.5) as server:
        try_again(server, post(bytes(100_000)), 10)
        before = held(server)
        with connect(server) as connection:
            connection.sendall(post(bytes(size))[: size // 2])
            eventually(lambda: held(server) - before > size // 4)
            assert answer(connection)[0] == 504
            eventually(lambda: held(server) - before < size // 8, 8)


def zeros(size: int) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(size, np.uint8))
    return file.getvalue()


def test_bodies_that_decode_to_much_leave_a_model_worker_within_its_bound(tmp_path: Path) -> None:
    """Of a batch of them some are answered, the others told to come back, and one that can never fit not to."""
    room = 160 * MEGABYTE
    bodies = [zeros(64 * MEGABYTE)] * 10 + [zeros(2 * room)]

    async def ask(server: Server) -> list[Answer]:
        return await asyncio.gather(*(once(server.port, body, content_type="application/x-npz") for body in bodies))

    with serving(model_folder(tmp_path, "sizes:Weigh"), decoded_memory=room, request_timeout=20) as server:
        asyncio.run(once(server.port, zeros(1), content_type="application/x-npz"))
        [worker] = server.workers()
        before = memory_of(worker).private
        for _ in range(2):
            *some, huge = asyncio.run(ask(server))
            assert {one.body for one in some if one.status == 200} == {b"64000000"}
            assert {one.code for one in some if one.status != 200} == {"bodies_full"}
            assert (huge.status, huge.code) == (413, "body_too_large")
        [after] = server.workers()
        peak = memory_of(worker).peak - before
        print(f"peak: {peak / MEGABYTE:.0f} MB more")
        assert after == worker
        assert peak < room + KEPT + SLACK
        eventually(lambda: memory_of(worker).private - before < KEPT + SLACK, 15)
