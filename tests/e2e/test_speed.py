"""A server whose model is told to be fast."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.e2e.client import Client, once
from tests.e2e.server import Server, model_folder, serving
from tests.services.plainnet import Net

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")


def ask(server: Server, row: list[float] | list[list[float]]) -> list[float]:
    answer = asyncio.run(once(server.port, json.dumps(row).encode(), content_type="application/json"))
    assert answer.status == 200, answer.body
    found: list[float] = answer.json()
    return found


def exact(row: list[float]) -> list[float]:
    with torch.inference_mode():
        found: list[float] = Net()(torch.tensor([row]))[0].tolist()
    return found


def metric(server: Server, name: str) -> float:
    async def read() -> str:
        async with Client(server.port) as client:
            return (await client.request("GET", "/metrics")).body.decode()

    [value] = [line.split()[1] for line in asyncio.run(read()).splitlines() if line.startswith(f"serving_{name} ")]
    return float(value)


def test_a_model_in_bfloat16_answers_nearly_the_same(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "plainnet:Plain", 'dtype = "bfloat16"')) as server:
        found = ask(server, [1.0, 2.0, 3.0, 4.0])
    assert found == pytest.approx(exact([1.0, 2.0, 3.0, 4.0]), abs=0.05)
    assert found != exact([1.0, 2.0, 3.0, 4.0])


@needs_compiler
@pytest.mark.slow
def test_a_compiled_model_is_compiled_before_it_is_ready_and_compiling_again_is_counted(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "plainnet:Plain", 'compile = "default"')
    with serving(folder, compile_cache=tmp_path / "cache") as server:
        assert ask(server, [1.0, 2.0, 3.0, 4.0]) == pytest.approx(exact([1.0, 2.0, 3.0, 4.0]), abs=1e-5)
        assert metric(server, "recompilations_total") == 0
        ask(server, [[1.0, 2.0, 3.0, 4.0]])  # one dimension more than what was warmed
        assert metric(server, "recompilations_total") >= 1
        assert server.lines(message="the model was compiled again while requests waited", level="warning")
        assert any((tmp_path / "cache").iterdir())


def test_a_model_that_cannot_be_compiled_runs_as_it_is_with_a_warning(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "plainnet:Plain", 'compile = "default"\n[env]\nCXX = "/nowhere/g++"')
    with serving(folder, compile_cache=tmp_path / "cache") as server:
        assert ask(server, [1.0, 2.0, 3.0, 4.0]) == pytest.approx(exact([1.0, 2.0, 3.0, 4.0]), abs=1e-5)
        assert server.lines(message="the model cannot be compiled and runs as it is", level="warning")
