"""Random pipelines, cut at random places: answers equal requests, in order, each with what belongs to it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, model_folder, serving
from tests.e2e.torture import MOST, run

AT_A_TIME = 8
ENOUGH = 20  # complaints, after which no more are looked for


@pytest.fixture(scope="module")
def tortured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = model_folder(tmp_path_factory.mktemp("tortured"), "dawdler:Dawdler")
    with serving(folder, max_body=MOST, http_workers=1) as server:
        yield server


async def torture(port: int, seeds: range) -> list[str]:
    left = iter(seeds)
    wrong: list[str] = []

    async def one() -> None:
        for seed in left:
            wrong.extend(await run(port, seed))
            if len(wrong) >= ENOUGH:
                return

    await asyncio.gather(*(one() for _ in range(AT_A_TIME)))
    return wrong


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_answers_equal_requests_in_order_with_their_bodies(tortured: Server, count: int) -> None:
    """TORTURE_SEED=n tries that pipeline alone; the seeds change from run to run."""
    given = os.environ.get("TORTURE_SEED")
    start = random.SystemRandom().randrange(1 << 32)
    seeds = range(int(given), int(given) + 1) if given else range(start, start + count)
    wrong = asyncio.run(torture(tortured.port, seeds))
    assert not wrong, "\n".join(["TORTURE_SEED says which pipeline:", *wrong])
