"""A model that says how long an answer may take keeps it under any load; and padding is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from tests.e2e.client import Answer, Client
from tests.e2e.server import model_folder, serving

SECONDS = 5.0
# Slow, so that what the machine adds, on which others work as well, is little beside it.
MODEL = "[options]\nfixed = 0.1\neach = 0.02"
MOST = 43  # requests/s: 32 in 0.74 s
CLIENTS = 100  # each with one request under way; few enough that they do not take the server's cores
LIMIT = 1.0
LATE = 1.5 * LIMIT


async def flood(port: int) -> list[Answer]:
    """What was asked in the last part of some seconds, after batches that tell how long this model takes."""
    found: list[Answer] = []

    async def ask(client: Client) -> Answer:
        return await client.request("POST", "/invocations", b"[1.0]", {"content-type": "application/json"})

    async def one(began: float) -> None:
        async with Client(port) as client:
            while (now := time.monotonic()) < began + SECONDS:
                answer = await ask(client)
                if now > began + SECONDS / 5:
                    found.append(answer)
                if answer.status == 503:
                    await asyncio.sleep(0.5)

    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(port)) for _ in range(8)]
        for number in range(16):
            await asyncio.gather(*(ask(client) for client in clients[: 1 + number % 8]))
    began = time.monotonic()
    await asyncio.gather(*(one(began) for _ in range(CLIENTS)))
    return found


@pytest.mark.parametrize("bounded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_taken_is_answered_within_max_latency_ms_and_the_rest_is_refused_at_once(
    tmp_path: Path, bounded: bool
) -> None:
    toml = f"{MODEL}\n[batch]\nmax_latency_ms = {LIMIT * 1000:g}" if bounded else MODEL
    with serving(model_folder(tmp_path, "steady:Steady", toml)) as server:
        found = asyncio.run(flood(server.port))
    good = sorted(answer.seconds for answer in found if answer.status == 200)
    refused = [answer for answer in found if answer.status != 200]
    print(f"bounded {bounded}: {len(good)} answered, p95 {good[len(good) * 95 // 100]:.3f} s, {len(refused)} refused")
    if not bounded:
        assert not refused
        assert good[len(good) // 2] > LATE, "so many wait that the middle one takes longer"
        return
    assert good[len(good) * 95 // 100] < LATE
    assert len(good) > 0.5 * SECONDS * 4 / 5 * MOST
    assert refused
    assert {(answer.status, answer.code) for answer in refused} == {(503, "overloaded")}
    assert all("retry-after" in answer.headers for answer in refused)
    assert max(answer.seconds for answer in refused) < LATE


def test_metrics_tell_how_much_of_the_batches_is_padding(tmp_path: Path) -> None:
    async def run(port: int) -> str:
        async def one(length: int) -> None:
            async with Client(port) as client:
                body = str([1.0] * length).encode()
                answer = await client.request("POST", "/invocations", body, {"content-type": "application/json"})
                assert answer.json() == length

        await asyncio.gather(*(one(length) for length in (10, 16, 33, 64)))
        async with Client(port) as client:
            return (await client.request("GET", "/metrics")).body.decode()

    with serving(model_folder(tmp_path, "steady:Padding")) as server:
        lines = asyncio.run(run(server.port)).splitlines()
    values = {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}
    assert values["serving_values_total"] == 10 + 16 + 33 + 64, "two batches: up to 16, and up to 64"
    assert values["serving_padded_values_total"] == 2 * 16 + 2 * 64
