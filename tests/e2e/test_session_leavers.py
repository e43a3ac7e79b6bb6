"""Sessions whose client left before it had the id: they end, the handler hears of it, and their place is free again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import once
from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.test_sessions import ID, say

LIMIT = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    log = tmp_path_factory.mktemp("leavers") / "log"
    folder = model_folder(log.parent, "memo:Memo", f'[options]\nlog = "{log}"\n')
    with serving(folder, http_workers=1, session_limit=LIMIT) as one:
        yield one, log


async def ask(port: int, body: dict[str, object]) -> asyncio.StreamWriter:
    """Ask for a session, as headers say or as the body does; gives what the connection can be closed with."""
    data = json.dumps(body).encode()
    session = "" if "requestType" in body else f"{ID}: NEW_SESSION\r\n"
    head = f"POST /invocations HTTP/1.1\r\nhost: x\r\n{session}content-length: {len(data)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + data)
    return writer


async def leave_within(server: Server, gate: Gate) -> None:
    """Leave while the call that opens the session runs."""
    writer = await ask(server.port, {"say": 1, "gate": gate.path})
    await asyncio.to_thread(gate.wait_reached)
    writer.transport.abort()
    await asyncio.to_thread(eventually, lambda: server.metric("requests_in_flight") == 0)
    gate.open()


async def leave_behind(server: Server, gate: Gate, body: dict[str, object]) -> None:
    """Leave while the call waits for another one."""
    busy = asyncio.create_task(once(server.port, {"gate": gate.path}))
    await asyncio.to_thread(gate.wait_reached)
    writer = await ask(server.port, body)
    await asyncio.to_thread(eventually, lambda: server.metric("requests_queued") == 1)
    writer.transport.abort()
    await asyncio.to_thread(eventually, lambda: server.metric("requests_in_flight") == 1)
    gate.open()
    assert (await busy).status == 200


async def leave_in_every_way(server: Server, folder: Path) -> None:
    for number in range(LIMIT):
        await leave_within(server, Gate(folder / f"within-{number}"))
        await leave_behind(server, Gate(folder / f"call-{number}"), {"say": 2})
        await leave_behind(server, Gate(folder / f"chore-{number}"), {"requestType": "NEW_SESSION"})
        failed = await say(server.port, {"do": "fail"}, "NEW_SESSION")
        assert (failed.status, failed.code) == (500, "handler_error")


def ids(log: Path, word: str) -> list[str]:
    return sorted(line.split()[1] for line in log.read_text().splitlines() if line.startswith(word))


def test_a_session_whose_client_has_left_before_its_answer_ends(server: tuple[Server, Path], tmp_path: Path) -> None:
    one, log = server
    asyncio.run(leave_in_every_way(one, tmp_path))
    eventually(lambda: one.metric("sessions_open") == 0)
    eventually(lambda: ids(log, "close") == ids(log, "open"))
    assert len(ids(log, "open")) >= LIMIT, "some of them were open"
    answers = [asyncio.run(say(one.port, {"say": "me"}, "NEW_SESSION")) for _ in range(LIMIT)]
    assert [answer.status for answer in answers] == [200] * LIMIT


def test_a_session_that_opens_too_late_ends(tmp_path: Path) -> None:
    """The call begins in time, and its deadline passes while it runs."""

    async def run(port: int) -> None:
        busy = asyncio.create_task(once(port, {"sleep": 1.5}))
        await asyncio.sleep(0.1)
        late = await say(port, {"say": 1, "sleep": 1.5}, "NEW_SESSION")
        assert late.status in (503, 504), "it may be known before that there is no time"
        assert (await busy).status == 200

    log = tmp_path / "log"
    folder = model_folder(tmp_path, "memo:Memo", f'timeout_s = 2\n[options]\nlog = "{log}"\n')
    with serving(folder, http_workers=1, session_limit=LIMIT) as server:
        asyncio.run(run(server.port))
        eventually(lambda: server.metric("sessions_open") == 0)
        eventually(lambda: not log.exists() or ids(log, "close") == ids(log, "open"))
