"""What user code and clients do that nobody would do on purpose costs nobody else an answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client, once
from tests.e2e.server import ROOT, Server, eventually, model_folder, serving

ODD_ANSWERS = (
    "long-attributes",
    "odd-attributes",
    "numpy-status",
    "half-status",
    "odd-message",
    "numbered-error",
    "odd-coded",
    "decode-surrogate",
    "decode-silent",
    "predict-surrogate",
)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("nasty"), "nasty:Nasty")
    with serving(folder, request_timeout=5) as server:
        yield server


@pytest.mark.parametrize("do", ODD_ANSWERS)
def test_an_answer_that_cannot_be_sent_fails_alone(nasty: Server, do: str) -> None:
    async def run() -> None:
        bad, *good = await asyncio.gather(
            once(nasty.port, {"do": do}), *(once(nasty.port, {"id": id}) for id in range(3))
        )
        if do.endswith("-attributes"):  # the answer is kept, without them
            assert bad.status == 200
            assert "x-amzn-sagemaker-custom-attributes" not in bad.headers
        else:
            assert 400 <= bad.status <= 500
            assert isinstance(bad.code, str)
        assert [answer.json()["id"] for answer in good] == [0, 1, 2]
        assert (await once(nasty.port, {"id": "after"})).status == 200

    pid = asyncio.run(once(nasty.port, {})).json()["pid"]
    asyncio.run(run())
    assert asyncio.run(once(nasty.port, {})).json()["pid"] == pid


def test_the_body_of_an_answer_that_has_none_is_not_taken_for_the_next_answer(nasty: Server) -> None:
    async def run() -> None:
        async with Client(nasty.port) as client:
            first = await client.invoke({"do": "no-content"})
            second = await client.invoke({"id": "second"})
        assert (first.status, first.body) == (204, b"")
        assert second.json()["id"] == "second"

    asyncio.run(run())


def test_an_upgrade_that_we_do_not_follow_is_ignored_and_the_body_kept(nasty: Server) -> None:
    """As Java's HttpClient sends it with its first request."""

    async def run() -> None:
        headers = {"Connection": "Upgrade, HTTP2-Settings", "UPGRADE": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAAB"}
        async with Client(nasty.port) as client:
            for id in range(3):
                body = json.dumps({"id": id, "text": "\r\nupgrade: h2c"}).encode()
                answer = await client.request("POST", "/invocations", body, headers if id < 2 else {})
                assert answer.json()["id"] == id

    asyncio.run(run())


def test_a_head_without_end_is_refused_at_64_kib(nasty: Server) -> None:
    start = b"GET /ping HTTP/1.1\r\nx: "
    with socket.create_connection(("127.0.0.1", nasty.port), timeout=5) as connection:
        connection.sendall(start + b"y" * (65_536 - len(start)))
        assert nasty.ping() == 200
        connection.sendall(b"y")
        assert connection.recv(4096).startswith(b"HTTP/1.1 431")
        assert connection.recv(4096) == b""
    assert nasty.ping() == 200


def test_a_worker_that_cuts_its_own_connections_is_replaced(nasty: Server) -> None:
    answer = asyncio.run(once(nasty.port, {"do": "close-sockets"}))
    # It counts as a death where the HTTP worker saw the cut before the call was over, and is tried again where not.
    assert answer.code in ("worker_died", "deadline_exceeded")
    assert asyncio.run(once(nasty.port, {"id": 1})).status == 200
    reason = "it lives without its connection to the supervisor"
    eventually(lambda: nasty.lines(message="ending a worker", reason=reason))


def test_a_destructor_that_hangs_is_ended_like_any_user_code(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "nasty:Nasty")
    with serving(folder, request_timeout=1) as server:
        assert asyncio.run(once(server.port, {"do": "slow-sample"})).status in (500, 504)
        assert asyncio.run(once(server.port, {"id": 1})).status == 200
        eventually(lambda: server.lines(message="ending a worker", reason="a call of its handler took too long"))


@pytest.mark.slow
def test_prints_that_nobody_reads_hold_up_neither_kills_nor_the_end(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "nasty:Nasty")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("SERVING_")}
    variables |= {"SERVING_MODEL_DIR": str(folder), "SERVING_HOST": "127.0.0.1", "SERVING_PORT": str(port)}
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "serve"],
        stdout=write_end,
        stderr=write_end,
        cwd=ROOT,
        env=variables | {"SERVING_REQUEST_TIMEOUT": "3"},
    )
    os.close(write_end)
    try:

        def is_up() -> bool:
            try:
                return asyncio.run(once(port, {"id": 0})).status == 200
            except OSError:
                return False

        eventually(is_up, 30)
        asyncio.run(once(port, {"do": "print", "bytes": 300_000}))
        hung = asyncio.run(once(port, {"do": "sleep", "seconds": 60}))
        assert hung.status == 504
        assert asyncio.run(once(port, {"id": 1})).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)


def test_a_stop_that_comes_before_the_supervisor_is_there_is_kept(faulty_folder: Path) -> None:
    server = Server(faulty_folder)
    eventually(lambda: "SigBlk:\t0000000000004002" in Path(f"/proc/{server.process.pid}/status").read_text())
    assert server.stop(seconds=15) == 0
    assert server.lines(message="stopping")
