"""Faults of a real device: memory that is short, a kernel that fails, a call that does not come back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from tests.e2e.client import once
from tests.e2e.server import Server, eventually, model_folder, serving

MIB = 1 << 20


def share_of_memory(share: float) -> int:
    """MiB."""
    return int(torch.cuda.mem_get_info(0)[1] * share) // MIB


def test_one_request_too_large_is_507_and_the_next_are_answered(server: Server) -> None:
    async def run() -> None:
        large = {"do": "allocate", "mib": share_of_memory(2)}
        answers = await asyncio.gather(once(server.port, large), *(once(server.port, {"n": n}) for n in range(8)))
        assert (answers[0].status, answers[0].code) == (507, "out_of_memory")
        assert [one.status for one in answers[1:]] == [200] * 8
        assert len({one.json()["pid"] for one in answers[1:]}) == 1, "the worker lives on"

    asyncio.run(run())


def test_requests_that_do_not_fit_together_are_answered_in_smaller_batches(tmp_path: Path) -> None:
    async def run(server: Server) -> None:
        each = {"do": "allocate", "mib": share_of_memory(0.4)}  # two fit at the same time, three do not
        answers = await asyncio.gather(*(once(server.port, {**each, "n": n}) for n in range(3)))
        assert [one.status for one in answers] == [200] * 3

    with serving(model_folder(tmp_path, "chip:Chip"), device="cuda:0") as server:
        asyncio.run(run(server))


@pytest.mark.parametrize("do", ["assert", "late"])
def test_a_failed_assert_in_a_kernel_costs_only_its_own_request(server: Server, do: str) -> None:
    """Whether the host still launches kernels when the device comes to it, or only looks whether the batch is done."""

    async def run() -> None:
        before = (await once(server.port, {"n": 1})).json()["pid"]
        bodies = [{"n": n} for n in range(8)]
        bodies.insert(4, {"do": do, "n": 1})  # type: ignore[dict-item]
        answers = await asyncio.gather(*(once(server.port, body) for body in bodies))
        broken = answers.pop(4)
        assert (broken.status, broken.code) == (500, "worker_died")
        assert [one.json()["double"] for one in answers] == [2.0 * n for n in range(8)]
        assert (await once(server.port, {"n": 3})).json()["pid"] != before

    asyncio.run(run())
    assert eventually(lambda: server.lines(message="the device is lost to this process"))[0]["fault"] == "sticky"


def test_a_call_that_does_not_come_back_is_ended_at_the_deadline(chip: Path) -> None:
    async def run(server: Server) -> None:
        answer = await once(server.port, {"do": "spin"})
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        assert (await once(server.port, {"n": 2})).json()["double"] == 4.0

    with serving(chip, device="cuda:0", request_timeout=3) as server:
        asyncio.run(run(server))
