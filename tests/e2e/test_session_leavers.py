"""Sessions whose client left before it had the id: they end, the handler hears of it, and their place is free again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import once
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.test_sessions import ID, say

LIMIT = 2


@pytest.fixture(scope="module", params=["direct", "asgi"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    log = tmp_path_factory.mktemp("leavers") / "log"
    folder = model_folder(log.parent, "memo:Memo", f'timeout_s = 1\n[options]\nlog = "{log}"\n')
    with serving(folder, http_workers=1, session_limit=LIMIT, http=request.param) as one:
        yield one, log


async def open_and_leave(port: int, body: dict[str, object], after: float) -> None:
    """Ask for a session, as headers say or as the body does, and close the connection so many seconds later."""
    data = json.dumps(body).encode()
    session = "" if "requestType" in body else f"{ID}: NEW_SESSION\r\n"
    head = f"POST /invocations HTTP/1.1\r\nhost: x\r\n{session}content-length: {len(data)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + data)
    await asyncio.sleep(after)
    writer.transport.abort()


async def behind(port: int, seconds: float, body: dict[str, object]) -> None:
    """Leave while the call waits for another one."""
    busy = asyncio.create_task(once(port, {"sleep": seconds}))
    await asyncio.sleep(seconds / 3)
    await open_and_leave(port, body, seconds / 3)
    await busy


async def leave_in_every_way(port: int) -> None:
    for _ in range(LIMIT):
        await open_and_leave(port, {"say": 1, "sleep": 0.2}, 0.1)
        await behind(port, 0.2, {"say": 2})
        await behind(port, 0.2, {"requestType": "NEW_SESSION"})
        late = await say(port, {"say": 3, "sleep": 1.05}, "NEW_SESSION")
        assert (late.status, late.code) == (504, "deadline_exceeded")
        failed = await say(port, {"do": "fail"}, "NEW_SESSION")
        assert (failed.status, failed.code) == (500, "handler_error")


def ids(log: Path, word: str) -> list[str]:
    return sorted(line.split()[1] for line in log.read_text().splitlines() if line.startswith(word))


def test_a_session_whose_client_has_left_before_its_answer_ends(server: tuple[Server, Path]) -> None:
    one, log = server
    asyncio.run(leave_in_every_way(one.port))
    eventually(lambda: one.metric("sessions_open") == 0)
    eventually(lambda: ids(log, "close") == ids(log, "open"))
    assert len(ids(log, "open")) >= LIMIT, "some of them were open"
    answers = [asyncio.run(say(one.port, {"say": "me"}, "NEW_SESSION")) for _ in range(LIMIT)]
    assert [answer.status for answer in answers] == [200] * LIMIT
