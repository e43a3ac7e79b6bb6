"""Behind a proxy that shares its connections among clients each client gets the answer to its own request.

Needs nginx or HAProxy; without them it is skipped.
"""

from __future__ import annotations

import http.client
import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.proxies import KINDS, program, proxying
from tests.e2e.server import Server, model_folder, serving

ROUNDS = 2
CLIENTS = 4
FILLING = 700_000  # bytes, so that a body comes in several reads also where its proxy sends it at once
LIMIT = 3_000_000  # bytes of a body
FORGED = b"slow FORGED"


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("witness")
    trace = folder / "trace"
    model = model_folder(folder, "witness:Witness", f'[options]\ntrace = "{trace}"\n')
    with serving(model, http_workers=1, max_body=LIMIT) as server:
        server.trace = trace  # type: ignore[attr-defined]
        yield server


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest, tmp_path: Path, witness: Server) -> Iterator[int]:
    if program(request.param) is None:
        pytest.skip(f"{request.param.partition('-')[0]} is not installed")
    with proxying(request.param, tmp_path / "proxy", witness.port) as port:
        yield port


def post(path: bytes, body: bytes, *lines: bytes, method: bytes = b"POST") -> tuple[bytes, bytes]:
    """Head and body of a request."""
    head = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n", body


def chunked(body: bytes, *trailers: bytes) -> tuple[bytes, bytes]:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n"
    end = b"".join(line + b"\r\n" for line in trailers)
    return head, b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, end)


def hidden(line: bytes, grows: int = 2, filling: int = 0) -> bytes:
    """A body whose last bytes are a request of their own to whoever makes each ``line`` longer by ``grows`` bytes."""
    request = b"".join(post(b"/invocations", FORGED, b"Content-Type: text/plain"))
    request = request.replace(b"Host: x", b"Host: x" + b"x" * (-len(request) % grows))
    return b"y" * filling + line * (len(request) // grows) + request


REQUEST = b"".join(post(b"/invocations", FORGED))
ATTRIBUTES = b"X-Amzn-SageMaker-Custom-Attributes: " + b"y" * 2000
EARLY = {  # heads that are answered before their body has come
    "an unknown path": (b"/nosuch", b"POST", []),
    "another method": (b"/invocations", b"PUT", []),
    "a ping": (b"/ping", b"POST", []),
    "metrics": (b"/metrics", b"POST", []),
    "a wrong header": (b"/invocations", b"POST", [ATTRIBUTES]),
    "no such session": (b"/invocations", b"POST", [b"X-Amzn-SageMaker-Session-Id: none"]),
}
LINES = (b"\r\nupgrade:a", b"\r\nUPGRADE: h2c", b"\r\nUpgrade:\t x")
UPGRADES = (b"h2c", b"websocket, h2c", b"h2c, websocket", b"WebSocket", b"x")


def attacks() -> dict[str, tuple[bytes, bytes]]:
    """Head and body of each attack."""
    found = {}
    for (name, (path, method, more)), filling in itertools.product(EARLY.items(), (0, FILLING)):
        for line in LINES if name == "an unknown path" else LINES[:1]:
            body = hidden(line, filling=filling)
            found[f"{name}, {line!r}, behind {filling} bytes"] = post(path, body, *more, method=method)
        found[f"{name}, a request behind {filling} bytes"] = post(path, b"y" * filling + REQUEST, *more, method=method)
    found["too large"] = post(b"/invocations", hidden(LINES[0], filling=LIMIT))
    for kind, path in itertools.product(UPGRADES, (b"/invocations", b"/nosuch")):
        found[f"{path!r}, upgrade to {kind!r}"] = post(path, REQUEST, b"Connection: Upgrade", b"Upgrade: " + kind)
    for trailer in (b"Connection: close", b"Content-Length: 5", b"X-Amzn-SageMaker-Session-Id: NEW_SESSION"):
        found[f"trailer {trailer!r}"] = chunked(b"trailed", trailer)
    found["trailers that hide a request"] = chunked(b"trailed", b"Upgrade: h2c", b"Connection: Upgrade")
    return found


def attack(port: int, head: bytes, body: bytes, pause: float) -> bytes:
    """Send an attack in one piece, or with a pause between head and body; returns how its answer begins."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            if pause:
                connection.sendall(head)
                time.sleep(pause)  # long enough that a proxy sends the head alone
                connection.sendall(body)
            else:
                connection.sendall(head + body)
            return connection.recv(100)
        except ConnectionError:  # refused before all of it was sent
            return b""


def ask(port: int, body: bytes) -> tuple[int, bytes]:
    """One honest request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/invocations", body, {"Content-Type": "text/plain"})
        with connection.getresponse() as answer:
            return answer.status, answer.read()
    finally:
        connection.close()


def crossed(port: int, head: bytes, body: bytes, pause: float, pool: ThreadPoolExecutor) -> list[tuple[int, bytes]]:
    """What honest clients get that is not theirs, beside and right after an attack."""
    wrong = []
    for turn in range(ROUNDS):
        attacking = pool.submit(attack, port, head, body, pause)
        if turn:  # the first time all connections are the attack's own
            bodies = [b"beside %d" % n for n in range(CLIENTS)]
            answers = list(pool.map(ask, [port] * CLIENTS, bodies))
            wrong += [answer for answer, own in zip(answers, bodies, strict=True) if answer != (200, own)]
        attacking.result()
        bodies = [b"after %d" % n for n in range(CLIENTS)]
        answers = list(pool.map(ask, [port] * CLIENTS, bodies))
        wrong += [answer for answer, own in zip(answers, bodies, strict=True) if answer != (200, own)]
    return wrong


@pytest.mark.parametrize("pause", [0.0, 0.03])
def test_no_client_of_a_shared_connection_gets_what_another_one_smuggled(
    witness: Server, proxy: int, pause: float
) -> None:
    found = []
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        for name, (head, body) in attacks().items():
            for status, given in crossed(proxy, head, body, pause, pool):
                found.append(f"{name}: {status} {given[:60]!r}")
    assert not found, "\n".join(["not their own answers:", *found])
    forged = witness.trace.read_text().count(repr(FORGED))  # type: ignore[attr-defined]
    assert forged == 0, "what no client has asked for was run"
