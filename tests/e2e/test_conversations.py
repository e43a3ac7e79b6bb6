"""WebSockets through the whole server: frames one to one, close codes that tell what the matter is, and the bounds."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import os
import signal
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e.server import ROOT, Server, eventually, is_alive, model_folder, pss, serving
from tests.e2e.store import add_model

PATH = "/invocations-bidirectional-stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("talker"), "talker:Talker")
    with serving(folder, http_workers=2, replicas=2, max_message=100_000, stream_idle_timeout=2) as one:
        one.wait_replicas(2)
        yield one


@contextlib.contextmanager
def talk(server: Server, path: str = PATH, **headers: str) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}{path}"
    with connect(url, additional_headers=headers, compression=None, open_timeout=10, close_timeout=5) as one:
        yield one


def close_of(server: Server, word: str, path: str = PATH) -> tuple[int, str]:
    """How the server closes after this."""
    with talk(server, path) as one:
        one.send(word)
        return ending(one)


def ending(one: ClientConnection) -> tuple[int, str]:
    """Read to the end; how the server closes."""
    try:
        while True:
            one.recv(timeout=20)
    except ConnectionClosed as exc:
        assert exc.rcvd is not None
        return exc.rcvd.code, exc.rcvd.reason


def refusal(server: Server, path: str, **headers: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as info, talk(server, path, **headers):
        pass
    response = info.value.response
    return response.status_code, json.loads(response.body or b"{}")["error"]["code"]


def test_text_and_bytes_come_back_as_they_were(server: Server) -> None:
    with talk(server) as one:
        for message in ("grüße", b"\x00\xff", "", b"", "x" * 90_000, b"y" * 90_000):
            one.send(message)
            assert one.recv(timeout=10) == message


def test_fragments_stay_fragments_both_ways(server: Server) -> None:
    with talk(server) as one:
        one.send(["a", "bb", "ccc"])
        # An iterable ends with an empty last fragment in this client.
        got = list(one.recv_streaming())
        assert got == ["a", "bb", "ccc", ""]
        one.send([b"1", b"22"])
        assert b"".join(one.recv_streaming()) == b"122"  # type: ignore[arg-type]


def test_a_handler_sees_query_path_and_headers(server: Server) -> None:
    with talk(server, f"{PATH}?k=v&n=%20", **{"X-Amzn-SageMaker-Target-Variant": "blue"}) as one:
        one.send("!about")
        about = json.loads(one.recv(timeout=10))
    assert about["path"] == PATH
    assert about["query"] == "k=v&n=%20"
    assert about["headers"]["x-amzn-sagemaker-target-variant"] == "blue"


def test_paths_that_the_handler_registers_are_served_and_others_not(server: Server) -> None:
    with talk(server, "/v1/realtime") as one:
        one.send("!about")
        assert json.loads(one.recv(timeout=10))["path"] == "/v1/realtime"
    assert refusal(server, "/v1/other") == (404, "not_found")
    assert refusal(server, PATH, **{"X-Amzn-SageMaker-Target-Variant": "-"}) == (400, "bad_request")


def test_a_model_that_does_not_converse_refuses_before_the_upgrade(echo: Server) -> None:
    assert refusal(echo, PATH) == (404, "not_found")


@pytest.mark.parametrize(
    ("word", "close"),
    [
        ("!close", (4000, "as you wish")),
        ("!bad", (1008, "bad_request: no such word")),
        ("!busy", (1013, "unavailable: later")),
        ("!leave", (1000, "")),
    ],
)
def test_the_close_code_tells_what_the_matter_is(server: Server, word: str, close: tuple[int, str]) -> None:
    assert close_of(server, word) == close


def test_a_failing_handler_closes_with_1011_and_keeps_its_secrets(server: Server) -> None:
    code, reason = close_of(server, "!fail")
    assert code == 1011
    assert reason.startswith("handler_error: ")
    assert "broken" not in reason


def test_pings_are_answered_while_the_handler_is_busy(server: Server) -> None:
    with talk(server) as one:
        one.send("!sleep")
        assert one.ping().wait(5)


def test_a_message_beyond_the_limit_closes_with_1009(server: Server) -> None:
    with talk(server) as one:
        one.send("x" * 100_000)
        assert one.recv(timeout=10) == "x" * 100_000
        one.send("x" * 100_001)
        assert ending(one)[0] == 1009


def test_the_handler_hears_how_the_client_closed(server: Server, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with talk(server, f"{PATH}?last=words", **{"X-Trace": str(trace)}) as one:
        one.send("hello")
        one.recv(timeout=10)
        one.close(4001, "enough")
    eventually(trace.exists)
    eventually(lambda: trace.read_text() == "4001 enough")


def test_a_worker_that_dies_closes_its_own_conversations_only(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(talk(server)) for _ in range(6)]
        pids = []
        for one in both:
            one.send("!about")
            pids.append(json.loads(one.recv(timeout=10))["pid"])
        assert len(set(pids)) == 2
        both[0].send("!die")
        for one, pid in zip(both, pids, strict=True):
            if pid == pids[0]:
                code, reason = ending(one)
                assert (code, reason[:11]) == (1011, "worker_died")
            else:
                one.send("still here")
                assert one.recv(timeout=10) == "still here"
    server.wait_replicas(2)


def test_a_loop_that_is_blocked_is_killed_and_its_clients_are_told(server: Server) -> None:
    started = time.monotonic()
    code, reason = close_of(server, "!block")
    assert (code, reason[:11]) == (1011, "worker_died")
    assert time.monotonic() - started < 5
    server.wait_replicas(2)


def test_a_client_that_reads_nothing_holds_up_nobody_and_costs_little(server: Server) -> None:
    everyone = server.children()
    before = sum(map(pss, everyone))
    with talk(server) as slow, talk(server) as one:
        slow.send("!flood")
        for i in range(200):
            one.send(str(i))
            assert one.recv(timeout=10) == str(i)
        assert sum(map(pss, everyone)) - before < 30 << 20
        for i in range(1000):
            assert slow.recv(timeout=10)[:6] == b"%06d" % i


def test_many_conversations_at_a_time(server: Server) -> None:
    async def one(i: int) -> None:
        async with connect_async(f"ws://127.0.0.1:{server.port}{PATH}", compression=None) as socket:
            for n in range(20):
                await socket.send(f"{i} {n}")
                assert await asyncio.wait_for(socket.recv(), 20) == f"{i} {n}"

    async def run() -> None:
        await asyncio.gather(*(one(i) for i in range(200)))

    asyncio.run(run())
    eventually(lambda: metric(server, "serving_streams_open") == 0)


def metric(server: Server, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        with connection.getresponse() as answer:
            lines = answer.read().decode().splitlines()
    finally:
        connection.close()
    return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


def test_more_than_the_limit_are_refused_with_503(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "talker:Talker"), conversation_limit=2) as server:
        with talk(server), talk(server):
            assert refusal(server, PATH) == (503, "conversation_limit")
        eventually(lambda: metric(server, "serving_streams_open") == 0)
        with talk(server) as one:
            one.send("room again")
            assert one.recv(timeout=10) == "room again"


def test_messages_that_the_handler_does_not_take_count_together(tmp_path: Path) -> None:
    """And those for which there is no room are told so; the others, and plain requests, go on."""
    size, most = 400_000, 6
    folder = model_folder(tmp_path, "talker:Talker")
    with serving(folder, http_workers=1, body_memory=5_000_000) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(talk(server)) for _ in range(12)]
        for client in clients:
            client.send("!wait")
            with contextlib.suppress(ConnectionClosed):
                client.send(bytes(size))
        eventually(lambda: sum(is_open(client) for client in clients) <= most)
        gone = [client for client in clients if not is_open(client)]
        assert {client.protocol.close_code for client in gone} == {1013}
        assert len(gone) < len(clients), "there was room for some"
        assert server.ping() == 200


def is_open(client: ClientConnection) -> bool:
    with contextlib.suppress(TimeoutError, ConnectionClosed):
        client.recv(timeout=0)
    return client.protocol.close_code is None


@pytest.mark.slow
def test_idle_and_long_ones_are_closed_with_1001(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"conversation_idle_timeout": 1, "conversation_timeout": 4}
    with serving(model_folder(tmp_path, "talker:Talker"), **settings) as server:
        with talk(server) as one:
            assert ending(one) == (1001, "no message for 1 s")
        started = time.monotonic()
        with talk(server) as one:
            one.send("!tick")
            assert ending(one) == (1001, "a conversation ends after 4 s")
        assert 3.9 < time.monotonic() - started < 6.5


def test_sigterm_closes_idle_conversations_at_once_and_busy_ones_when_they_are_answered(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "talker:Talker"), http_workers=1) as server:
        with talk(server) as idle, talk(server) as answered, talk(server) as asking:
            answered.send("hello")
            assert answered.recv(timeout=10) == "hello"
            asking.send("!think")
            stopped = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert ending(idle) == ending(answered) == (1001, "the server is stopping")
            assert time.monotonic() - stopped < 4
            assert asking.recv(timeout=10) == "a thought"
            assert ending(asking) == (1001, "the server is stopping")
        assert server.wait(15) == 0
        assert time.monotonic() - stopped < 12


def test_a_conversation_that_never_falls_silent_is_closed_before_the_drain_is_over(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "talker:Talker")
    with serving(folder, http_workers=1, drain_timeout=4) as server, talk(server) as one:
        one.send("!tick")
        one.recv(timeout=10)
        server.process.send_signal(signal.SIGTERM)
        assert ending(one) == (1001, "the server is stopping")
        assert server.wait(15) == 0
        assert not server.lines(message="the drain time is over")


def test_a_conversation_that_waits_for_its_model_is_refused_when_the_server_stops(tmp_path: Path) -> None:
    server = Server(model_folder(tmp_path, "talker:Talker", "[options]\nload_seconds = 60\n"), http_workers=1)
    try:
        eventually(lambda: server.lines(message="the server is loading"))
        with ThreadPoolExecutor() as pool:
            refused = pool.submit(refusal, server, PATH)
            eventually(lambda: metric(server, "serving_requests_in_flight") == 1)
            stopped = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert refused.result(10) == (503, "draining")
        assert server.wait(15) == 0
        assert time.monotonic() - stopped < 8
    finally:
        server.leave()


def test_each_model_of_a_store_converses(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_model(tmp_path, name, handler="talker:Talker")
    with serving(tmp_path, model_store=tmp_path) as server:
        pids = set()
        for name in ("a", "b"):
            with talk(server, **{"X-Amzn-SageMaker-Target-Model": name}) as one:
                one.send("!about")
                pids.add(json.loads(one.recv(timeout=20))["pid"])
        assert len(pids) == 2
        assert refusal(server, PATH, **{"X-Amzn-SageMaker-Target-Model": "c"}) == (404, "model_not_found")


def test_a_frontend_that_dies_leaves_no_conversation_behind(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "talker:Talker"), http_workers=1) as server, talk(server) as one:
        one.send("hello")
        one.recv(timeout=10)
        [http_worker] = [pid for pid in server.children() if b"frontend" in Path(f"/proc/{pid}/cmdline").read_bytes()][
            1:
        ]
        os.kill(http_worker, signal.SIGKILL)
        eventually(lambda: not is_alive(http_worker))
        eventually(lambda: server.ping() == 200 and metric(server, "serving_streams_open") == 0)


def test_the_meter_hears() -> None:
    """``examples/meter``: 440 Hz at half of full scale."""
    wave = struct.pack("<16000f", *(0.5 * math.sin(2 * math.pi * 440 * n / 16000) for n in range(16000)))
    with serving(ROOT / "examples" / "meter") as server, talk(server) as one:
        one.send([wave[:10_000], wave[10_000:]])
        measured = json.loads(one.recv(timeout=20))
        assert measured["hz"] == 440.0
        assert abs(measured["db"] - 20 * math.log10(0.5 / math.sqrt(2))) < 0.2
        one.send("reset")
        one.send(b"\0" * 4000)
        assert json.loads(one.recv(timeout=20))["db"] == -120.0
        one.send(b"\0" * 3)
        assert ending(one)[0] == 1008
