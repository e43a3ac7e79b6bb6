"""What hears something when the time to finish is over: everything that was accepted, and soon."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.test_retries import read_all, wish
from tests.e2e.test_sessions import ID

SOON = 3.0  # seconds after the end of the drain, on a busy machine


async def half(port: int) -> tuple[int, str]:
    """A request whose body never comes whole."""
    return await read_all(port, wish("echo", "half"), missing=1)


async def converse(port: int) -> tuple[int, str]:
    url = f"ws://127.0.0.1:{port}/invocations-bidirectional-stream"
    async with connect(url, compression=None, ping_interval=None) as one:
        await one.wait_closed()
        return one.close_code or 0, ""


async def ask_all(server: Server, hang: dict[str, Any]) -> dict[str, asyncio.Task[tuple[int, str]]]:
    """Requests of each kind before and behind one that hangs."""
    port, asked = server.port, {}
    for kind in ("stream", "async"):
        asked[f"{kind} that began"] = asyncio.create_task(read_all(port, wish(kind, "b", n=50, delay=0.3)))
    await asyncio.sleep(0.8)
    asked["the one that hangs"] = asyncio.create_task(read_all(port, hang))
    await asyncio.sleep(0.3)
    for kind in ("stream", "async", "echo"):
        for number in range(3):
            asked[f"{kind} {number}"] = asyncio.create_task(read_all(port, wish(kind, "x")))
    asked["session"] = asyncio.create_task(read_all(port, wish("echo", "s"), **{ID: "NEW_SESSION"}))
    asked["half"] = asyncio.create_task(half(port))
    asked["conversation"] = asyncio.create_task(converse(port))
    await asyncio.sleep(0.3)
    return asked


def is_told(name: str, answer: tuple[int, str]) -> bool:
    status, text = answer
    if name.endswith("that began"):
        return status == 200 and text.startswith("b.0") and text.endswith("[cut]")
    if name == "conversation":
        return status in (1001, 1012)
    return (status, text) == (503, "draining") or status == 200


@pytest.mark.parametrize("do", ["echo", "stream"])
def test_everything_hears_something_soon_after_the_drain(tmp_path: Path, do: str) -> None:
    hang = wish("echo", "h", seconds=50) if do == "echo" else wish("stream", "h", delay=50)

    async def run(server: Server) -> None:
        asked = await ask_all(server, hang)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: server.lines(message="the drain time is over"))
        over = time.monotonic()
        answers = await asyncio.wait_for(asyncio.gather(*asked.values()), 15)
        assert time.monotonic() - over < SOON
        wrong = {name: answer for name, answer in zip(asked, answers, strict=True) if not is_told(name, answer)}
        assert not wrong

    with serving(model_folder(tmp_path, "mixed:Mixed"), http_workers=2, drain_timeout=2) as server:
        asyncio.run(run(server))
        assert server.wait(10) == 0


def test_who_comes_when_nobody_answers_any_more_is_refused_and_not_cut_off(tmp_path: Path) -> None:
    """A client that is refused knows that its request was not taken; one whose connection is reset does not."""

    def connects(server: Server) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", server.port), 5):
                return True
        except ConnectionRefusedError:
            return False

    with serving(model_folder(tmp_path, "lingerer:Lingerer")) as server:
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not connects(server))
        assert not server.lines(message="closed"), "while the handler closes"
        assert server.process.wait(10) == 0
