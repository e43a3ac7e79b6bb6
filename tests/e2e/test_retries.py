"""What ran when a model's process died is tried once more, by itself: only the request that did it fails."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, model_folder, serving

FAILED = (500, "worker_died")
WAITING = 5  # requests of a round, the bad one included


async def read_all(port: int, body: dict[str, Any], missing: int = 0, **headers: str) -> tuple[int, str]:
    """Status, and the whole answer or its error code; a broken end is told as such."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    fields = {"host": "x", "connection": "close", "content-length": str(len(data) + missing)} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"POST /invocations HTTP/1.1\r\n{lines}\r\n".encode() + data)
    whole = await reader.read()
    writer.close()
    head, _, rest = whole.partition(b"\r\n\r\n")
    if not head:
        return 0, "closed without a byte"
    status = int(head.split(b" ")[1])
    if b"transfer-encoding: chunked" in head.lower():
        return status, text_of(rest)
    answer = json.loads(rest)
    return status, answer["error"]["code"] if "error" in answer else answer["id"]


def text_of(chunks: bytes) -> str:
    text = b""
    while True:
        size, found, chunks = chunks.partition(b"\r\n")
        if not found:
            return text.decode() + "[cut]"
        if not (length := int(size, 16)):
            return text.decode()
        text, chunks = text + chunks[:length], chunks[length + 2 :]


def wish(do: str, id: str, **more: object) -> dict[str, Any]:
    return {"do": do, "id": id, **more}


def right(body: dict[str, Any]) -> tuple[int, str]:
    if body["do"] in ("stream", "async"):
        return 200, "".join(f"{body['id']}.{i} " for i in range(body.get("n", 5)))
    return 200, body["id"]


async def rounds(server: Server, folder: Path, bad: dict[str, Any], kind: str, count: int) -> list[str]:
    """Innocent requests that were not answered as they should be, in rounds with the bad one first or last."""
    wrong = []
    for number in range(count):
        innocent = [wish(kind, f"s{number}"), wish(kind, f"t{number}"), wish("echo", "e"), wish("echo", "f")]
        bodies = [bad, *innocent] if number % 2 else [*innocent, bad]
        # Something slow first, so that the others gather behind it and share a batch.
        gate = Gate(folder / str(number))
        slow = asyncio.create_task(read_all(server.port, wish("echo", "slow", gate=gate.path)))
        await asyncio.to_thread(gate.wait_reached)
        asked = [asyncio.create_task(read_all(server.port, body)) for body in bodies]
        await asyncio.to_thread(eventually, lambda: server.metric("requests_queued") == WAITING)
        gate.open()
        answers = await asyncio.gather(*asked)
        assert await slow == (200, "slow")
        for body, answer in zip(bodies, answers, strict=True):
            if body is bad:
                assert answer == FAILED
            elif answer != right(body):
                wrong.append(f"round {number}: {body} got {answer}")
    return wrong


@pytest.mark.parametrize("kind", ["stream", "async"])
@pytest.mark.parametrize(
    ("http_workers", "count", "bad"),
    [
        (1, 6, wish("exit", "bad")),
        (3, 6, wish("exit", "bad")),
        (3, 4, wish("exit-in-decode", "bad")),
        pytest.param(3, 40, wish("exit", "bad"), marks=pytest.mark.slow),
    ],
)
def test_streams_and_echoes_beside_one_bad_request_all_succeed(
    tmp_path: Path, kind: str, http_workers: int, count: int, bad: dict[str, Any]
) -> None:
    with serving(model_folder(tmp_path, "mixed:Mixed"), http_workers=http_workers) as server:
        assert asyncio.run(rounds(server, tmp_path, bad, kind, count)) == []
