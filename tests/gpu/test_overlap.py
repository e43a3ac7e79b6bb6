"""The device has its next batch before it is done with one: decode and encode cost it nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch

from serving.transfer import stack
from tests.e2e.client import Client
from tests.e2e.server import Server, model_folder, serving

CONNECTIONS, REQUESTS = 96, 40


async def load(server: Server) -> tuple[float, float]:
    """The share of the time in which the device computed, and requests per second."""

    async def one() -> None:
        async with Client(server.port) as client:
            for _ in range(REQUESTS):
                assert (await client.invoke([1.0] * 64)).status == 200

    async with Client(server.port) as client:
        await client.invoke([0.0] * 64)
        start = (await client.invoke([0.0] * 64)).json()
        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        end = (await client.invoke([0.0] * 64)).json()
    wall = end["now"] - start["now"]
    return (end["busy"] - start["busy"]) / wall, CONNECTIONS * REQUESTS / wall


def test_the_device_is_busy_nine_tenths_of_the_time(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "busy:Busy"), device="cuda:0", batch_size=32) as server:
        share, rate = asyncio.run(load(server))
    with serving(model_folder(tmp_path / "serial", "busy:Serial"), device="cuda:0", batch_size=32) as server:
        serial, slower = asyncio.run(load(server))
    name = torch.cuda.get_device_name(0)
    print(f"{name}: busy {share:.1%}, {rate:.0f}/s; one after the other {serial:.1%}, {slower:.0f}/s")
    assert share >= 0.9
    assert share > serial


def test_batches_that_are_copied_while_the_device_computes_arrive_whole() -> None:
    """Memory of one batch is used for another as soon as it is free, on the host and on the device."""
    batches = [[torch.full((256, 256), float(10 * n + k)) for k in range(8)] for n in range(64)]
    work = torch.ones(2048, 2048, device="cuda:0")
    found = []
    for samples in batches:
        work = (work @ work).clamp(0, 1)
        found.append((stack(samples, "cuda:0") * 2).sum((1, 2)))
    for sums, samples in zip(found, batches, strict=True):
        assert torch.equal(sums.cpu(), torch.stack([2 * one.sum() for one in samples]))
