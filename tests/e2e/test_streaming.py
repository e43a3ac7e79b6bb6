"""Answers in pieces: each at once, cut where they fail, ended where nobody listens, and bounded like all others."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from tests.e2e.server import Server, eventually, model_folder, pss, serving

HANDLERS = ("Streamer", "AsyncStreamer")


@pytest.fixture(scope="module", params=HANDLERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("streamer")
    trace = folder / "trace"
    model = model_folder(folder, f"streamer:{request.param}", f'[options]\ntrace = "{trace}"\n')
    with serving(model, stream_idle_timeout=2.0, stream_timeout=4.0, request_timeout=3.0) as one:
        one.trace = trace  # type: ignore[attr-defined]
        yield one


def events(server: Server, kind: str) -> dict[str, float]:
    """When each generator began or ended, by request id."""
    path: Path = server.trace  # type: ignore[attr-defined]
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {name: at for event, name, at in lines if event == kind}


@contextlib.contextmanager
def opened(server: Server, wish: dict[str, Any], **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An answer whose pieces are still to come."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("POST", "/invocations", json.dumps(wish), headers)
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


class Got(NamedTuple):
    status: int
    headers: Message
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


def post(server: Server, wish: dict[str, Any], **headers: str) -> Got:
    with opened(server, wish, **headers) as answer:
        return Got(answer.status, answer.headers, answer.read())


class Raw:
    """A request on a socket of its own, read as it comes."""

    def __init__(self, server: Server, wish: dict[str, Any], head: str = "", version: str = "1.1") -> None:
        body = json.dumps(wish)
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.socket.sendall(
            f"POST /invocations HTTP/{version}\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n{body}".encode()
        )

    def read_all(self) -> bytes:
        """Until the server closes."""
        data = b""
        with self.socket:
            while chunk := self.socket.recv(65536):
                data += chunk
        return data


def test_every_piece_is_a_chunk_that_leaves_at_once(server: Server) -> None:
    with opened(server, {"n": 5, "delay": 0.2, "stamp": True}) as answer:
        assert answer.status == 200
        assert answer.getheader("transfer-encoding") == "chunked"
        assert answer.getheader("content-type") == "application/octet-stream"
        late = [time.monotonic() - float(line) for line in answer]
    assert len(late) == 5
    assert median(late) < 0.1, "none of them waits for the next"


def test_the_type_is_the_handlers_or_what_the_client_accepts(server: Server) -> None:
    assert post(server, {"n": 1, "type": "text/event-stream"}).headers["content-type"] == "text/event-stream"
    answer = post(server, {"n": 1}, Accept="text/event-stream")
    assert answer.headers["content-type"] == "text/event-stream"


def test_attributes_and_status_leave_before_the_first_piece(server: Server) -> None:
    answer = post(server, {"n": 2, "attributes": "a=1", "status": 206})
    assert answer.status == 206
    assert answer.headers["x-amzn-sagemaker-custom-attributes"] == "a=1"
    assert answer.body == b"0\n1\n"


def test_no_pieces_at_all_are_an_empty_answer(server: Server) -> None:
    answer = post(server, {"n": 0})
    assert (answer.status, answer.body) == (200, b"")


def test_a_failure_before_the_first_piece_keeps_its_status(server: Server) -> None:
    answer = post(server, {"n": 2, "fail_at": 0})
    assert (answer.status, answer.code) == (500, "handler_error")
    answer = post(server, {"n": 2, "fail_at": 0, "client": True})
    assert (answer.status, answer.code) == (400, "bad_request")


def test_a_failure_in_the_middle_is_told_in_band_and_cuts_the_connection(server: Server) -> None:
    data = Raw(server, {"n": 3, "fail_at": 2, "type": "text/event-stream"}).read_all()
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"data: 0\n\n" in body
    assert b'event: error\ndata: {"error":{"code":"handler_error"' in body
    assert not body.endswith(b"0\r\n\r\n")
    data = Raw(server, {"n": 3, "fail_at": 2, "type": "application/jsonlines"}).read_all()
    assert b'{"error":{"code":"handler_error"' in data
    assert not data.endswith(b"0\r\n\r\n")


EVENTS, LINES = "text/event-stream", "application/jsonlines"


@pytest.mark.parametrize(
    ("kind", "end", "between"),
    [
        (EVENTS, "", "\n\n"),
        (EVENTS, "\n", "\n"),
        (EVENTS, "\r\n", "\n"),
        (EVENTS, "\n\n", ""),
        (EVENTS, "\r\n\r\n", ""),
        (EVENTS, "\r\r", ""),
        (LINES, "", "\n"),
        (LINES, "\n", ""),
    ],
)
def test_the_error_begins_on_a_line_of_its_own(server: Server, kind: str, end: str, between: str) -> None:
    data = Raw(server, {"n": 3, "fail_at": 2, "type": kind, "end": end}, version="1.0").read_all()
    _, _, body = data.partition(b"\r\n\r\n")
    start = "event: error\ndata: {" if kind == EVENTS else "{"
    last = "data: 1" if kind == EVENTS else "1"
    assert f'{last}{end}{between}{start}"error":{{"code":"handler_error"'.encode() in body, body


def test_a_type_without_records_is_only_cut(server: Server) -> None:
    data = Raw(server, {"n": 3, "fail_at": 2}).read_all()
    assert data.endswith(b"2\r\n1\n\r\n")
    assert b"error" not in data
    with pytest.raises(http.client.IncompleteRead):
        post(server, {"n": 3, "fail_at": 2})


def test_the_connection_lives_on_after_a_whole_answer(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for n in (1, 3, 0, 2):
        connection.request("POST", "/invocations", json.dumps({"n": n}))
        with connection.getresponse() as answer:
            assert answer.read() == b"".join(b"%d\n" % i for i in range(n))
        if n == 1:
            before = connection.sock
    assert connection.sock is before
    connection.close()


def test_http_1_0_gets_no_chunks_but_the_end_of_the_connection(server: Server) -> None:
    head, _, body = Raw(server, {"n": 3}, version="1.0").read_all().partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"content-length" not in head
    assert body == b"0\n1\n2\n"


def test_a_client_that_leaves_ends_its_generator(server: Server) -> None:
    raw = Raw(server, {"n": 1000, "delay": 0.01}, "x-amzn-sagemaker-inference-id: leaver\r\n")
    raw.socket.recv(100)
    raw.socket.close()
    left = time.monotonic()
    eventually(lambda: "leaver" in events(server, "end"))
    assert events(server, "end")["leaver"] - left < 2.0, "by itself it takes ten seconds"


def test_an_answer_that_stands_still_is_cut_and_the_server_goes_on(server: Server) -> None:
    started = time.monotonic()
    data = Raw(server, {"n": 3, "hang_at": 1, "type": "text/event-stream"}).read_all()
    assert b'"code":"deadline_exceeded"' in data
    assert 1.9 < time.monotonic() - started < 8.0
    eventually(lambda: post(server, {"n": 1}).body == b"0\n", 5)


def test_a_first_piece_that_does_not_come_is_a_504(server: Server) -> None:
    answer = post(server, {"n": 3, "hang_at": 0})
    assert (answer.status, answer.code) == (504, "deadline_exceeded")
    eventually(lambda: post(server, {"n": 1}).body == b"0\n", 5)


def test_an_answer_that_takes_too_long_as_a_whole_is_cut(server: Server) -> None:
    started = time.monotonic()
    data = Raw(server, {"n": 1000, "delay": 0.1, "type": "application/jsonlines"}).read_all()
    assert b'"code":"deadline_exceeded"' in data
    assert 3.9 < time.monotonic() - started < 5.0


def test_a_worker_that_dies_in_the_middle_is_told_and_replaced(server: Server) -> None:
    data = Raw(server, {"n": 5, "delay": 0.05, "crash_at": 3, "type": "text/event-stream"}).read_all()
    assert b"data: 2\n\n" in data
    assert b'"code":"worker_died"' in data
    assert not data.endswith(b"0\r\n\r\n")
    eventually(lambda: post(server, {"n": 1}).body == b"0\n", 5)


def test_streams_run_side_by_side(server: Server) -> None:
    """Each has its first piece before any other has its last: they take turns."""

    async def one() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = json.dumps({"n": 5, "delay": 0.05})
        writer.write(f"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        times = []
        async with asyncio.timeout(20):
            while not (line := await reader.readline()).startswith(b"0\r"):
                if line.strip() in (b"0", b"1", b"2", b"3", b"4"):
                    times.append(time.monotonic())
        writer.close()
        return times

    async def run() -> list[list[float]]:
        return await asyncio.gather(*(one() for _ in range(8)))

    found = asyncio.run(run())
    assert max(times[0] for times in found) < min(times[-1] for times in found)


def test_plain_requests_are_answered_between_pieces(server: Server) -> None:
    raw = Raw(server, {"n": 1000, "delay": 0.01})
    raw.socket.recv(100)
    started = time.monotonic()
    assert post(server, {"n": 1}).body == b"0\n"
    assert time.monotonic() - started < 5.0
    raw.socket.close()


def test_a_slow_reader_holds_up_the_generator_and_nobody_else(server: Server) -> None:
    raw = Raw(server, {"n": 20_000, "size": 10_000}, "x-amzn-sagemaker-inference-id: slow\r\n")
    raw.socket.recv(1000)
    worker = server.workers()[0]
    eventually(lambda: post(server, {"n": 1}).body == b"0\n")
    assert pss(worker) < 200 << 20
    assert "slow" not in events(server, "end")
    raw.socket.close()
    eventually(lambda: "slow" in events(server, "end"))


def test_sigterm_lets_an_answer_finish(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "streamer:AsyncStreamer")) as server:
        with opened(server, {"n": 10, "delay": 0.1}) as answer:
            answer.read(2)
            server.process.send_signal(signal.SIGTERM)
            assert answer.read() == b"".join(b"%d\n" % i for i in range(1, 10))
        assert server.wait() == 0


def test_two_hundred_slow_readers_stay_within_bounds(tmp_path: Path) -> None:
    """Each asks for 20 MB and reads nothing: what waits for them is a window each, not 4 GB."""
    with serving(model_folder(tmp_path, "streamer:AsyncStreamer"), http_workers=1) as server:
        assert post(server, {"n": 1}).body == b"0\n"
        everyone = [server.process.pid, *server.children()]
        before = sum(map(pss, everyone))
        raws = [Raw(server, {"n": 2000, "size": 10_000}) for _ in range(200)]
        for raw in raws:
            assert raw.socket.recv(10)
        assert post(server, {"n": 1}).body == b"0\n"
        grown = sum(map(pss, everyone)) - before
        print(f"200 slow readers: {grown / 200 / 1024:.0f} KiB each")
        assert grown < 200 * 512 * 1024
        for raw in raws:
            raw.socket.close()
        eventually(lambda: post(server, {"n": 1}).body == b"0\n")


def test_a_loop_that_is_blocked_is_killed(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "streamer:AsyncStreamer"), stream_idle_timeout=1.0) as server:
        worker = server.workers()[0]
        data = Raw(server, {"n": 3, "block_at": 1, "type": "text/event-stream"}).read_all()
        assert b'"code":"deadline_exceeded"' in data or b'"code":"worker_died"' in data
        eventually(lambda: not Path(f"/proc/{worker}").exists(), 5)
        eventually(lambda: post(server, {"n": 1}).body == b"0\n", 5)


def test_a_batch_of_plain_requests_beside_async_streams(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "streamer:AsyncStreamer")
    with serving(folder) as server, opened(server, {"n": 30, "delay": 0.02}) as stream:
        stream.read(2)
        for _ in range(20):
            assert post(server, {"plain": True}).body == b"plain"
        assert stream.read().endswith(b"29\n")


def test_predict_may_be_a_generator(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "streamer:Tokens")) as server:
        answer = post(server, {"n": 3})
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.body == b"0 1 2 "


def test_chat_completions_go_to_a_handler_that_declares_them(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "streamer:Chat")) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)

        def chat(body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, bytes]:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            with connection.getresponse() as answer:
                return answer.status, answer.read()

        status, body = chat({"model": "", "messages": []})
        assert (status, json.loads(body)["path"]) == (200, "/v1/chat/completions")
        status, body = chat({"stream": True})
        assert body.count(b"data: ") == 3
        assert body.endswith(b"data: [DONE]\n\n")
        assert json.loads(chat({}, "/invocations")[1]) == {"path": "/invocations"}
        status, body = chat({}, "/v1/completions")
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
        connection.close()


def test_chat_completions_are_404_where_nobody_declares_them(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", b"{}")
    with connection.getresponse() as answer:
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (404, "not_found")
    connection.close()


def test_a_stopped_worker_does_not_hold_a_stream_for_ever(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "streamer:AsyncStreamer"), stream_idle_timeout=1.0) as server:
        raw = Raw(server, {"n": 1000, "delay": 0.01, "type": "text/event-stream"})
        raw.socket.recv(100)
        worker = server.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        try:
            assert b'"code":"deadline_exceeded"' in raw.read_all()
        finally:
            os.kill(worker, signal.SIGCONT)
