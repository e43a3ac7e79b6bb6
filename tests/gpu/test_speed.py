"""What ``serving.toml`` says of speed, on a real device."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch

from tests.e2e.client import Answer, once
from tests.e2e.server import Server, model_folder, serving
from tests.services.plainnet import Net

OTHERWISE = (
    "the model cannot be compiled and runs as it is",
    "the model was compiled again while requests waited",
    "cuda_graphs has no effect here",
    "the model's kernels cannot be recorded and it runs without a graph",
    "a call is of no kind that was recorded and runs without a graph",
)
"""What the server says where it has not done what it was told; torch has warnings of its own."""

ROWS = [[float(n), 1.0, -float(n), 0.5] for n in range(23)]


def ask_all(server: Server) -> list[list[float]]:
    async def run() -> list[Answer]:
        return list(await asyncio.gather(*(once(server.port, json.dumps(row).encode()) for row in ROWS)))

    return [answer.json() for answer in asyncio.run(run())]


@pytest.mark.parametrize(
    ("toml", "tolerance"),
    [
        ("tf32 = false\ncuda_graphs = true", 1e-5),
        ("cuda_graphs = true", 0.1),
        ('dtype = "float16"', 0.1),
        ('dtype = "bfloat16"\ncuda_graphs = true\nbatch_sizes = [1, 4]', 0.6),
        ('tf32 = false\ncompile = "default"', 1e-4),
        ('tf32 = false\ncompile = "reduce-overhead"', 1e-4),
    ],
)
def test_the_answers_are_those_of_the_model_as_it_is(tmp_path: Path, toml: str, tolerance: float) -> None:
    with torch.inference_mode():
        exact = torch.cat([Net()(torch.tensor(ROWS)), Net()(2 * torch.tensor(ROWS))], 1)
    with serving(model_folder(tmp_path, "plainnet:Twice", toml), device="cuda:0", ready_within=120) as server:
        found = torch.tensor(ask_all(server))
        assert not [line for message in OTHERWISE for line in server.lines(message=message)]
    assert torch.allclose(found, exact, atol=tolerance)
