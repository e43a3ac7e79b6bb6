"""One model over several processes, as over several GPUs, here on the CPU."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.ipc.faults import EXIT_STICKY
from tests.e2e.client import Answer, once
from tests.e2e.server import ROOT, Server, eventually, is_alive, model_folder, serving

TOTAL = float(sum(range(100)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path, "ranked:Ranked", "gpus = 3\n")


@pytest.fixture
def ranked(folder: Path) -> Iterator[Server]:
    with serving(folder, request_timeout=5, device="cpu") as server:
        yield server


def ask(server: Server, **body: Any) -> Answer:
    return asyncio.run(once(server.port, body))


def pids(server: Server) -> list[int]:
    found: list[int] = ask(server, n=1).json()["pids"]
    return found


def test_all_ranks_have_their_part_in_every_answer(ranked: Server) -> None:
    async def run() -> None:
        answers = await asyncio.gather(*(once(ranked.port, {"n": n}) for n in range(20)))
        assert [one.json()["sum"] for one in answers] == [n * TOTAL for n in range(20)]
        assert len({tuple(one.json()["pids"]) for one in answers}) == 1

    asyncio.run(run())
    assert len(set(pids(ranked))) == 3


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_when_one_rank_is_killed_all_are_replaced(ranked: Server, rank: int) -> None:
    before = pids(ranked)
    os.kill(before[rank], signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, before)))
    answer = eventually(lambda: (found := ask(ranked, n=2)).status == 200 and found, 20)
    assert answer.json()["sum"] == 2 * TOTAL
    assert not set(answer.json()["pids"]) & set(before)


def test_a_rank_that_ends_in_the_middle_of_a_batch_costs_that_request(ranked: Server) -> None:
    assert ask(ranked, do="crash-other").status == 500
    assert eventually(lambda: (found := ask(ranked, n=2)).status == 200 and found, 20).json()["sum"] == 2 * TOTAL


def test_ranks_that_hang_are_ended_with_their_worker(ranked: Server) -> None:
    before = pids(ranked)
    assert ask(ranked, do="hang").status == 504
    eventually(lambda: not any(map(is_alive, before)))
    assert eventually(lambda: (found := ask(ranked, n=1)).status == 200 and found, 20).json()["sum"] == TOTAL


def test_what_all_ranks_raise_is_that_requests_error_alone(ranked: Server) -> None:
    async def run() -> list[Answer]:
        bodies = [{"n": 1}, {"do": "raise"}, {"n": 2}]
        return list(await asyncio.gather(*(once(ranked.port, body) for body in bodies)))

    before = pids(ranked)
    good, bad, other = asyncio.run(run())
    assert (good.json()["sum"], other.json()["sum"]) == (TOTAL, 2 * TOTAL)
    assert (bad.status, bad.code) == (500, "handler_error")
    assert pids(ranked) == before


def test_what_one_rank_raises_is_an_error_too(ranked: Server) -> None:
    before = pids(ranked)
    assert ask(ranked, do="raise-other").status == 500
    assert pids(ranked) == before


def test_a_rank_that_loses_its_context_costs_the_worker(ranked: Server) -> None:
    before = pids(ranked)
    answer = ask(ranked, do="assert-other")
    assert (answer.status, answer.code) == (500, "worker_died")
    assert eventually(lambda: (found := ask(ranked, n=1)).status == 200 and found, 20).json()["sum"] == TOTAL
    assert not set(pids(ranked)) & set(before)
    causes = {line["cause"] for line in ranked.lines(message="a worker ended")}
    assert causes == {f"exit code {EXIT_STICKY}: its CUDA context was lost"}


def test_a_batch_that_cannot_be_sent_is_an_error_that_says_so(ranked: Server) -> None:
    before = pids(ranked)
    assert ask(ranked, do="odd").status == 500
    assert pids(ranked) == before


def test_sigterm_leaves_no_rank_behind(folder: Path) -> None:
    with serving(folder, device="cpu") as server:
        before = pids(server)
        assert server.stop() == 0
    assert not any(map(is_alive, before))


@pytest.mark.parametrize(
    ("toml", "settings", "words"),
    [
        ("gpus = 0", {}, "gpus is 0; allowed: an integer from 1 to 64"),
        ("gpus = 2\nreplicas = 2", {}, "over several GPUs a model has one replica"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(
    tmp_path: Path, toml: str, settings: dict[str, Any], words: str
) -> None:
    server = Server(model_folder(tmp_path, "ranked:Ranked", toml), **settings)
    try:
        assert server.wait() == 1
        assert words in "\n".join(server.raw)
    finally:
        server.leave()


def test_the_example_gives_what_the_whole_network_gives(tmp_path: Path) -> None:
    folder = ROOT / "examples" / "sharded"
    for name in ("serving.toml", "code"):
        (tmp_path / name).symlink_to(folder / name)
    subprocess.run([sys.executable, folder / "train.py", tmp_path], check=True, timeout=60)
    sys.path.insert(0, str(folder / "code"))
    try:
        from inference import WIDTH, stack  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder / "code"))
        del sys.modules["inference"]
    whole = stack()
    whole.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    row = torch.randn(WIDTH)
    with serving(tmp_path, device="cpu") as server:
        answer = asyncio.run(once(server.port, json.dumps(row.tolist()).encode()))
    with torch.inference_mode():
        assert torch.allclose(torch.tensor(answer.json()), whole(row), atol=1e-5)
