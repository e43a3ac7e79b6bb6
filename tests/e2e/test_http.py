"""The HTTP border, on raw sockets where a client library would hide the detail."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from pathlib import Path

import pytest

from tests.e2e.client import Answer, Client, once
from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, model_folder, serving


def raw(port: int, data: bytes, until: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes, read until these bytes have come."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        return read_until(connection, until)


def read_until(connection: socket.socket, until: bytes) -> bytes:
    got = b""
    while until not in got:
        part = connection.recv(65536)
        assert part, f"closed after {got!r}"
        got += part
    return got


def test_the_body_goes_in_and_comes_out_as_it_was(echo: Server) -> None:
    for size in (0, 1, 1000, 65_535, 65_536, 199_999):
        body = bytes(range(256)) * (size // 256 + 1)
        answer = asyncio.run(once(echo.port, body[:size], content_type="application/x-thing"))
        assert (answer.status, answer.body) == (200, body[:size])
        assert answer.headers["content-type"] == "application/x-thing"


def test_a_missing_content_type_and_accept_are_no_error(echo: Server) -> None:
    got = raw(echo.port, b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi", b"hi")
    assert got.startswith(b"HTTP/1.1 200")


def test_header_names_are_found_whatever_their_case(echo: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHOST: x\r\ncOnTeNt-TyPe: a/b\r\nX-AMZN-SAGEMAKER-custom-ATTRIBUTES: k=v\r\n"
    got = raw(echo.port, head + b"Content-LENGTH: 1\r\n\r\nz", b"\r\n\r\nz").lower()
    assert b"content-type: a/b" in got
    assert b"x-amzn-sagemaker-custom-attributes: k=v" in got


def test_chunked_bodies_are_taken(echo: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    got = raw(echo.port, head + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n", b"abcdefg")
    assert got.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("body", [b"zz\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloXX0\r\n\r\n", b"fffffffffffffffff\r\n"])
def test_a_broken_chunk_is_a_400_and_the_end_of_its_connection(echo: Server, body: bytes) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", echo.port), timeout=10) as one:
        one.sendall(head + body)
        answer = b""
        while data := one.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert asyncio.run(once(echo.port, b"still there")).status == 200


def test_a_body_that_breaks_off_reaches_no_handler(echo: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel"
    with socket.create_connection(("127.0.0.1", echo.port), timeout=10) as one:
        one.sendall(head)
    assert asyncio.run(once(echo.port, b"still there")).status == 200


def test_expect_100_continue_is_answered_before_the_body(echo: Server) -> None:
    with socket.create_connection(("127.0.0.1", echo.port), timeout=5) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert read_until(connection, b"\r\n\r\nok").startswith(b"HTTP/1.1 200")


def test_a_body_above_the_limit_is_refused_before_it_is_sent(echo: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 200001\r\n\r\n"
    got = raw(echo.port, head, b"}}")
    assert got.startswith(b"HTTP/1.1 413")
    assert b"200000" in got


def test_a_body_above_the_limit_is_refused_also_when_its_length_is_not_declared(echo: Server) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    got = raw(echo.port, head + chunk * 4 + b"0\r\n\r\n", b"}}")
    assert got.startswith(b"HTTP/1.1 413")


def test_a_client_that_sends_a_whole_body_above_the_limit_can_read_its_413(echo: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=10)
    connection.request("POST", "/invocations", b"x" * 3_000_000)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "body_too_large"
    connection.close()


def test_a_client_that_waits_to_send_its_body_and_is_refused_loses_its_connection(echo: Server) -> None:
    """Whatever it sends next could be the body or the next request, and nobody can tell."""
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3000000\r\n\r\n"
    got = raw(echo.port, head, b"}}").lower()
    assert got.startswith(b"http/1.1 413")
    assert b"connection: close" in got


def test_pipelined_requests_are_answered_in_order(echo: Server) -> None:
    requests = b"".join(
        b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nnumber-%d" % n for n in range(6)
    )
    got = raw(echo.port, requests, b"number-5")
    assert [got.index(b"number-%d" % n) for n in range(6)] == sorted(got.index(b"number-%d" % n) for n in range(6))


def test_many_requests_share_one_connection(echo: Server) -> None:
    async def run() -> None:
        async with Client(echo.port) as client:
            for n in range(200):
                assert (await client.invoke(b"%d" % n)).body == b"%d" % n
                assert (await client.ping()).status == 200

    asyncio.run(run())


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_invocations_takes_post_only(echo: Server, method: str) -> None:
    async def run() -> None:
        async with Client(echo.port) as client:
            answer = await client.request(method, "/invocations")
            assert (answer.status, answer.headers["allow"]) == (405, "POST")

    asyncio.run(run())


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_ping_takes_get_head_and_post(echo: Server, method: str) -> None:
    async def run() -> None:
        async with Client(echo.port) as client:
            answer = await client.request(method, "/ping")
            assert answer.status == 200
            assert method == "HEAD" or answer.json()["status"] == "ready"
            assert (await client.request("DELETE", "/ping")).status == 405

    asyncio.run(run())


def test_other_paths_are_404_in_the_same_form(echo: Server) -> None:
    async def run() -> None:
        async with Client(echo.port) as client:
            answer = await client.request("GET", "/nothing/here")
            assert (answer.status, answer.code) == (404, "not_found")

    asyncio.run(run())


def test_the_answer_is_never_compressed(echo: Server) -> None:
    answer = asyncio.run(once(echo.port, b"a" * 10_000, accept_encoding="gzip"))
    assert "content-encoding" not in answer.headers
    assert len(answer.body) == 10_000


def test_no_attribute_of_a_request_can_split_a_header(echo: Server) -> None:
    """A tab is ASCII, so that the platform lets it in, but it is not printable, so that it does not go out."""
    answer = asyncio.run(once(echo.port, b"x", X_Amzn_SageMaker_Custom_Attributes="a\tb"))
    assert answer.status == 200
    assert "x-amzn-sagemaker-custom-attributes" not in answer.headers


@pytest.mark.parametrize(
    ("header", "field"),
    [("Custom-Attributes", "CustomAttributes"), ("Session-Id", "SessionId"), ("Inference-Id", "InferenceId")],
)
def test_a_header_that_the_platform_would_refuse_is_a_400_that_names_the_field(
    echo: Server, header: str, field: str
) -> None:
    answer = asyncio.run(once(echo.port, b"x", **{f"X-Amzn-SageMaker-{header}": "y" * 1025}))
    assert (answer.status, answer.code) == (400, "bad_request")
    assert answer.json()["error"]["message"].startswith(f"{field} is ")


def test_custom_attributes_go_back_by_themselves_where_that_is_wanted(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "faulty:Faulty"), echo_attributes="true") as server:
        answer = asyncio.run(once(server.port, {"id": 1}, X_Amzn_SageMaker_Custom_Attributes="trace=1"))
        assert answer.headers["x-amzn-sagemaker-custom-attributes"] == "trace=1"


def test_garbage_is_a_400_and_the_server_goes_on(echo: Server) -> None:
    assert raw(echo.port, b"\x00\x01\x02 nonsense\r\n\r\n", b"\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert asyncio.run(once(echo.port, b"fine")).status == 200


def test_headers_beyond_all_measure_are_a_431_in_the_form_of_every_error(echo: Server) -> None:
    for header in ("X_Amzn_SageMaker_Thing", "X_Amzn_SageMaker_Inference_Id"):
        answer = asyncio.run(once(echo.port, b"x", **{header: "y" * 70_000}))
        assert (answer.status, answer.code, answer.headers["connection"]) == (431, "head_too_large", "close")


def test_the_inference_id_is_the_request_id_of_an_error(echo: Server) -> None:
    async def run() -> str:
        async with Client(echo.port) as client:
            fields = {"content-length": "200001", "x-amzn-sagemaker-inference-id": "my-id-7", "expect": "100-continue"}
            answer = await client.request("POST", "/invocations", b"", fields)
            return str(answer.json()["error"]["request_id"])

    assert asyncio.run(run()) == "my-id-7"


def test_a_client_that_leaves_takes_its_queued_request_with_it(faulty_folder: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")

    async def run(server: Server) -> None:
        slow = asyncio.create_task(once(server.port, {"do": "wait", "gate": gate.path}))
        await asyncio.to_thread(gate.wait_reached)
        impatient = asyncio.create_task(once(server.port, {"do": "segfault"}))
        await asyncio.to_thread(eventually, lambda: server.metric("requests_queued") == 1)
        impatient.cancel()
        await asyncio.to_thread(eventually, lambda: server.metric("requests_in_flight") == 1)
        behind = asyncio.create_task(once(server.port, {"id": 2}))
        # The model's worker has heard of all that came before this one.
        await asyncio.to_thread(eventually, lambda: server.metric("requests_queued") == 2)
        gate.open()
        assert (await slow).status == 200
        assert (await behind).status == 200
        assert not server.lines(message="a worker ended"), "the cancelled request never reached the model"

    with serving(faulty_folder, http_workers=1) as server:
        asyncio.run(run(server))


def test_a_full_queue_answers_503_with_retry_after_at_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "faulty:Faulty", "[batch]\nqueue_size = 4\nmax_size = 1\n")
    gate = Gate(tmp_path / "gate")

    async def run(port: int) -> None:
        busy = asyncio.create_task(once(port, {"do": "wait", "gate": gate.path}))
        await asyncio.to_thread(gate.wait_reached)
        asking = [asyncio.create_task(once(port, {"id": n})) for n in range(12)]
        # While the model is at work, so that nothing of them waits for that.
        await asyncio.to_thread(eventually, lambda: sum(one.done() for one in asking) == 12 - 4)
        refused = [one.result() for one in asking if one.done()]
        assert {(answer.status, answer.code) for answer in refused} == {(503, "queue_full")}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        gate.open()
        assert sorted([(await one).status for one in asking]) == [200] * 4 + [503] * 8
        assert (await busy).status == 200

    with serving(folder) as server:
        asyncio.run(run(server.port))


def test_an_idle_connection_lives_longer_than_the_platforms_75_seconds() -> None:
    from serving.frontend.server import KEEP_ALIVE

    assert KEEP_ALIVE >= 75


def test_text_logs_are_for_people(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "echo:Echo")
    server = Server(folder, log_format="text", port=0)
    try:
        eventually(lambda: any("listening" in line for line in server.raw))
        assert not server.raw[0].startswith("{")
    finally:
        server.stop()


def test_batch_transform_is_told_how_many_requests_at_a_time_pay(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "echo:Echo", "replicas = 2\n[batch]\nmax_size = 4\n")
    with serving(folder) as server:
        answer = asyncio.run(get(server.port, "/execution-parameters"))
        assert answer.json() == {"MaxConcurrentTransforms": 8, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 6}
    with serving(folder, max_body=2_000_000) as server:
        assert asyncio.run(get(server.port, "/execution-parameters")).json()["MaxPayloadInMB"] == 2


async def get(port: int, path: str) -> Answer:
    async with Client(port) as client:
        return await client.request("GET", path)
