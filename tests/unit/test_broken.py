"""Models of a store that failed to load: when they are tried again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from serving.ipc.messages import Problem
from serving.supervisor.loading.broken import COOL_DOWN, LOOK, BrokenModels

PROBLEM = Problem(503, "model_failed", "no weights")


def test_one_rests_longer_each_time_and_no_longer_than_that() -> None:
    broken = BrokenModels(lambda name, url: Path("/nowhere"))
    waits = [broken.add("a", PROBLEM).wait for _ in range(8)]
    assert waits[:3] == [COOL_DOWN[0], 2 * COOL_DOWN[0], 4 * COOL_DOWN[0]]
    assert waits[-1] == COOL_DOWN[1]
    now = time.monotonic()
    assert broken.of("a", now) is not None
    assert broken.of("a", now + COOL_DOWN[1] + 1) is None
    broken.forget("a")
    assert broken.of("a", now) is None
    assert broken.add("a", PROBLEM).wait == COOL_DOWN[0]


def test_its_files_are_looked_at_once_in_a_while() -> None:
    broken = BrokenModels(lambda name, url: Path("/nowhere"))
    one = broken.add("a", PROBLEM)
    now = one.looked
    assert [broken.begin_look(one, now + LOOK * part) for part in (0.5, 1.0, 1.5, 2.0)] == [
        False,
        True,
        False,
        True,
    ]


def test_one_whose_files_have_changed_or_gone_is_tried_at_once(tmp_path: Path) -> None:
    file = tmp_path / "model.py"

    async def run() -> None:
        file.write_text("bad")
        broken = BrokenModels(lambda name, url: tmp_path)
        for change in (lambda: file.write_text("better"), file.unlink):
            one = broken.add("a", PROBLEM)
            await broken.remember_files("a", one)
            assert not await broken.look_again("a", one)
            assert broken.of("a", time.monotonic()) is one
            change()
            assert await broken.look_again("a", one)
            assert broken.of("a", time.monotonic()) is None

    asyncio.run(run())
