"""Asynchronous invocations: how many run, how long they wait, and that each leaves exactly one outcome."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serving.errors import Unavailable
from serving.frontend.local.asynchronous import AT_ONCE, WAITING, AsyncInvocations
from serving.frontend.local.call import Container
from serving.frontend.local.files import INPUT_LIMIT, MESSAGE, write

SCOPE = {"type": "http", "method": "POST", "path": "/endpoints/e/async-invocations"}
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not true within {seconds} s"
        await asyncio.sleep(0.002)


async def read_all(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


async def answer(send: Send, status: int = 200, body: bytes = b"{}") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Gate:
    """An application that holds every call until it is opened."""

    def __init__(self) -> None:
        self.inside = self.most = self.served = 0
        self.open = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await read_all(receive)
        await self.open.wait()
        self.inside -= 1
        self.served += 1
        await answer(send)


class Desk:
    """``AsyncInvocations`` with two folders and a clock that stands until it is set."""

    def __init__(self, folder: Path, app: App) -> None:
        self.inputs, self.outputs = folder / "in", folder / "out"
        self.inputs.mkdir()
        self.now = 0.0
        self.calls = AsyncInvocations(Container(app), str(self.inputs), str(self.outputs), lambda: self.now)

    async def submit(self, body: bytes = b"{}", **headers: str) -> Path:
        """Where the output of an accepted call will be."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        pairs = [(f"x-amzn-sagemaker-{name}".encode(), value.encode()) for name, value in headers.items()]
        await self.calls.accept("e", {**SCOPE, "headers": pairs}, receive, send)
        assert sent[0]["status"] == 202
        return Path(dict(sent[0]["headers"])[b"x-amzn-sagemaker-outputlocation"].decode().removeprefix("file://"))

    async def submit_file(self, data: bytes, **headers: str) -> tuple[Path, Path]:
        path = self.inputs / "input"
        path.write_bytes(data)
        return path, await self.submit(b"", inputlocation=path.as_uri(), **headers)

    def left(self) -> list[Path]:
        return list(self.outputs.iterdir()) if self.outputs.exists() else []


def failure_of(output: Path) -> Path:
    return output.with_name(f"{output.stem}-error.out")


async def failure(output: Path) -> Any:
    await eventually(failure_of(output).exists)
    assert not await asyncio.to_thread(output.exists)
    return json.loads(failure_of(output).read_bytes())


def test_only_so_many_run_at_a_time_and_all_have_their_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate()
        desk = Desk(tmp_path, gate)
        outputs = [await desk.submit() for _ in range(3 * AT_ONCE)]
        await eventually(lambda: gate.inside == AT_ONCE)
        assert not any(output.exists() for output in outputs)
        gate.open.set()
        await eventually(lambda: all(output.exists() for output in outputs))
        assert (gate.most, gate.served) == (AT_ONCE, 3 * AT_ONCE)

    asyncio.run(scenario())


def test_only_so_many_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate()
        desk = Desk(tmp_path, gate)
        for _ in range(AT_ONCE + WAITING):
            await desk.submit()
        with pytest.raises(Unavailable, match="1000"):
            await desk.submit()
        gate.open.set()
        await eventually(lambda: len(desk.left()) == AT_ONCE + WAITING, 30)
        await eventually(lambda: gate.inside == 0)
        await desk.submit()

    asyncio.run(scenario())


@pytest.mark.parametrize(("seconds", "now", "in_time"), [("60", 59, True), ("60", 61, False), ("", 21_601, False)])
def test_a_call_that_waited_too_long_is_not_run(tmp_path: Path, seconds: str, now: float, in_time: bool) -> None:
    async def scenario() -> None:
        gate = Gate()
        desk = Desk(tmp_path, gate)
        for _ in range(AT_ONCE):
            await desk.submit()
        waiting = await desk.submit(requestttlseconds=seconds)
        await eventually(lambda: gate.inside == AT_ONCE)
        desk.now = now
        gate.open.set()
        if in_time:
            await eventually(waiting.exists)
        else:
            assert "RequestTTLSeconds" in (await failure(waiting))["OriginalMessage"]
        assert gate.served == AT_ONCE + in_time

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [0, 1, MESSAGE, MESSAGE + 1, 5 * MESSAGE])
def test_the_input_comes_in_small_messages_and_its_size_is_told_before(tmp_path: Path, size: int) -> None:
    seen: list[tuple[Scope, list[Message]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, await read_all(receive)))
        await answer(send)

    async def scenario() -> None:
        _, output = await Desk(tmp_path, app).submit_file(bytes(size), accept="a/b")
        await eventually(output.exists)

    asyncio.run(scenario())
    ((scope, messages),) = seen
    assert (scope["method"], scope["path"]) == ("POST", "/invocations")
    assert dict(scope["headers"])[b"content-length"] == str(size).encode()
    assert dict(scope["headers"])[b"accept"] == b"a/b"
    assert sum(len(message["body"]) for message in messages) == size
    assert all(len(message["body"]) <= MESSAGE for message in messages)


@pytest.mark.parametrize("change", ["gone", "elsewhere", "shorter"])
def test_an_input_that_changes_after_it_was_accepted_fails_its_call(tmp_path: Path, change: str) -> None:
    async def scenario() -> None:
        reading = asyncio.Event()
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            reading.set()
            await go_on.wait()
            messages = await read_all(receive)
            if messages[-1]["type"] == "http.request":
                await answer(send)

        desk = Desk(tmp_path, app)
        if change != "shorter":
            for _ in range(AT_ONCE):
                await desk.submit()
        path, output = await desk.submit_file(bytes(3 * MESSAGE))
        await reading.wait()
        if change == "shorter":
            path.write_bytes(b"x")
        else:
            path.unlink()
        if change == "elsewhere":
            (tmp_path / "other").write_bytes(b"x")
            path.symlink_to(tmp_path / "other")
        go_on.set()
        assert "could not be read" in (await failure(output))["OriginalMessage"]

    asyncio.run(scenario())


def test_an_input_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, Gate())
        path = desk.inputs / "large"
        with path.open("wb") as file:
            file.truncate(INPUT_LIMIT + 1)
        with pytest.raises(Exception, match="at most 1073741824"):
            await desk.submit(b"", inputlocation=path.as_uri())

    asyncio.run(scenario())


def test_a_call_that_runs_too_long_fails_and_its_application_sees_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        gone = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await read_all(receive)
            assert (await receive())["type"] == "http.disconnect"
            await answer(send)
            gone.set()

        output = await Desk(tmp_path, app).submit(invocationtimeoutseconds="1")
        assert (await failure(output))["OriginalStatusCode"] == 0
        await gone.wait()
        assert not output.exists()

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["raise", "return", "cut"])
def test_an_application_that_does_not_finish_leaves_a_failure(tmp_path: Path, how: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if how == "raise":
            raise ValueError("a secret")
        if how == "cut":
            scope["extensions"]["serving.cut"]("worker_died")

    async def scenario() -> None:
        error = await failure(await Desk(tmp_path, app).submit())
        assert error["OriginalStatusCode"] == 500
        assert error["Message"].endswith("and could not load the entire response body")

    asyncio.run(scenario())


def test_what_is_accepted_when_the_loop_ends_has_an_outcome(tmp_path: Path) -> None:
    outputs: list[Path] = []

    async def scenario() -> None:
        gate = Gate()
        desk = Desk(tmp_path, gate)
        outputs.extend([await desk.submit() for _ in range(AT_ONCE + 3)])
        await eventually(lambda: gate.inside == AT_ONCE)

    asyncio.run(scenario())
    for output in outputs:
        assert "stopped" in json.loads(failure_of(output).read_bytes())["OriginalMessage"]


def test_a_folder_that_cannot_be_made_is_no_fault_of_the_client(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    async def scenario() -> None:
        with pytest.raises(Unavailable, match="SERVING_LOCAL_OUTPUT"):
            await Desk(tmp_path, Gate()).submit()

    asyncio.run(scenario())


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write(tmp_path / "taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
