"""Each answer says the id under which the log knows it, and a handler sees the headers that it asks for, no others."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.e2e.client import Answer, Client
from tests.e2e.server import Server, model_folder, serving
from tests.e2e.store import add_model

ID = re.compile(r"[0-9a-f]{16}(-[0-9a-f]+)?")
TYPE = {"content-type": "application/json"}
GIVEN = {"x-amzn-sagemaker-inference-id": "mine-1 2"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("teller"), "teller:Teller")
    with serving(folder, max_body=200_000, http_workers=1) as one:
        yield one


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    async def once() -> Answer:
        async with Client(server.port) as client:
            return await client.request(method, path, body, {key.replace("_", "-"): v for key, v in headers.items()})

    return asyncio.run(once())


CASES: dict[str, tuple[str, str, bytes, dict[str, str], int]] = {
    "plain": ("POST", "/invocations", b"{}", TYPE, 200),
    "its own path": ("POST", "/v1/tell", b"{}", TYPE, 200),
    "bad body": ("POST", "/invocations", b"{", TYPE, 400),
    "handler": ("POST", "/invocations", b'{"fail": 1}', TYPE, 400),
    "session": ("POST", "/invocations", b"{}", {"x-amzn-sagemaker-session-id": "NEW_SESSION"}, 200),
    "unknown session": ("POST", "/invocations", b"{}", {"x-amzn-sagemaker-session-id": "none"}, 400),
    "bad header": ("POST", "/invocations", b"{}", {"x-amzn-sagemaker-target-variant": "?"}, 400),
    "too large": ("POST", "/invocations", b"x" * 300_000, TYPE, 413),
    "method": ("PUT", "/invocations", b"{}", TYPE, 405),
    "no path": ("GET", "/nowhere", b"", {}, 404),
    "no path of the handler": ("POST", "/v1/other", b"{}", {}, 404),
    "v2": ("GET", "/v2", b"", {}, 200),
    "v2 model": ("GET", "/v2/models/model", b"", {}, 400),
    "v2 nothing": ("GET", "/v2/nothing", b"", {}, 404),
    "ping": ("GET", "/ping", b"", {}, 200),
    "ping by another method": ("DELETE", "/ping", b"", {}, 405),
    "metrics": ("GET", "/metrics", b"", {}, 200),
    "execution parameters": ("GET", "/execution-parameters", b"", {}, 200),
}


def error_id(answer: Answer) -> str:
    """The one in the body; "" where there is none."""
    value = answer.json() if answer.headers["content-type"] == "application/json" and answer.body else {}
    error = value.get("error", {}) if isinstance(value, dict) else {}
    return str(error.get("request_id", "")) if isinstance(error, dict) else ""


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), CASES.values(), ids=CASES)
def test_every_answer_has_an_id(
    server: Server, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = ask(server, method, path, body, **headers)
    assert answer.status == status
    assert ID.fullmatch(answer.headers["x-request-id"])
    assert error_id(answer) in ("", answer.headers["x-request-id"])
    if path in ("/invocations", "/v1/tell"):
        named = ask(server, method, path, body, **headers, **GIVEN)
        assert named.headers["x-request-id"] == "mine-1 2", "the client's own, if it has one"
        assert error_id(named) in ("", "mine-1 2")


def test_ids_differ_on_one_connection_too_and_are_those_that_the_handler_sees(server: Server) -> None:
    async def many() -> list[Answer]:
        async with Client(server.port) as client:
            return [await client.invoke({}) for _ in range(5)]

    answers = asyncio.run(many())
    assert len({one.headers["x-request-id"] for one in answers}) == 5
    assert all(one.json()["id"] == one.headers["x-request-id"] for one in answers)


def test_a_stream_says_it_in_its_head(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as one:
        one.sendall(
            b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\nconnection: close\r\n"
            b"x-amzn-sagemaker-inference-id: abc\r\n\r\n" + b'{"pieces": 1}'
        )
        text = b"".join(iter(lambda: one.recv(65536), b""))
    assert b"transfer-encoding: chunked" in text.lower()
    assert b"\r\nx-request-id: abc\r\n" in text


def test_what_is_no_request_has_one_too(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as one:
        one.sendall(b"GET / HTTP/1.1\r\n\r\n")
        head, _, body = b"".join(iter(lambda: one.recv(65536), b"")).partition(b"\r\n\r\n")
    [line] = [line for line in head.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert line.partition(b": ")[2].decode() == json.loads(body)["error"]["request_id"]


def test_a_websocket_has_it_in_its_handshake_and_in_a_refusal(server: Server) -> None:
    url = f"ws://127.0.0.1:{server.port}"
    with connect(f"{url}/invocations-bidirectional-stream", open_timeout=10) as one:
        assert one.response is not None
        assert one.response.headers["x-request-id"] == one.recv(timeout=10)
    with connect(f"{url}/invocations-bidirectional-stream", additional_headers=GIVEN, open_timeout=10) as one:
        assert one.recv(timeout=10) == "mine-1 2"
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{url}/elsewhere", open_timeout=10)
    response = refused.value.response
    assert response.headers["x-request-id"] == json.loads(response.body)["error"]["request_id"]


def test_the_handler_sees_the_headers_that_it_asks_for_and_no_others(server: Server) -> None:
    sent = {"Authorization": "Bearer x", "x_tenant": "a", "x_other": "b", **TYPE}

    def seen(answer: Answer) -> Any:
        return answer.json()["headers"]

    for path in ("/invocations", "/v1/tell"):
        assert seen(ask(server, "POST", path, b"{}", **sent)) == {"authorization": "Bearer x", "x-tenant": "a"}
        assert seen(ask(server, "POST", path, b"{}", **TYPE)) == {}
    session = ask(server, "POST", "/invocations", b"{}", **sent, x_amzn_sagemaker_session_id="NEW_SESSION")
    assert seen(session) == {"authorization": "Bearer x", "x-tenant": "a"}


def test_a_header_that_came_twice_is_joined_and_the_next_request_has_its_own(server: Server) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
    wishes = [
        b"x-tenant: a\r\nx-tenant: b\r\ncookie: c=1\r\ncookie: d=2\r\n",
        b"x-tenant: z\r\n",
        b"x-tenant: z\r\n",
        b"",
    ]
    with socket.create_connection(("127.0.0.1", server.port), 10) as one, one.makefile("rb") as file:
        found = []
        for wish in wishes:
            one.sendall(head + wish + b"\r\n{}")
            size = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    size = int(line.partition(b":")[2])
            found.append(json.loads(file.read(size))["headers"])
    assert found == [{"x-tenant": "a, b", "cookie": "c=1; d=2"}, {"x-tenant": "z"}, {"x-tenant": "z"}, {}]


def test_what_is_repeated_after_a_death_has_them_too_and_so_has_the_api_of_a_store(tmp_path: Path) -> None:
    add_model(tmp_path, "a")
    with serving(tmp_path, model_store=tmp_path, http_workers=1) as one:
        for method, path, status in (("GET", "/models", 200), ("GET", "/models/a", 404), ("PUT", "/models", 405)):
            answer = ask(one, method, path)
            assert answer.status == status
            assert ID.fullmatch(answer.headers["x-request-id"])
            assert error_id(answer) in ("", answer.headers["x-request-id"])
