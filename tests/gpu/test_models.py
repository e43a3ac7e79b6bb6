"""Several models on one GPU: each has its own process, and its memory is back when that ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.e2e.client import once
from tests.e2e.server import Server, model_folder, serving
from tests.e2e.store import ask, unload
from tests.gpu.nvml import falls_to, used

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        model_folder(tmp_path / name, "chip:Chip", "[options]\nmib = 1024")
    # model_folder makes a folder "model" within, as the platform does.
    return tmp_path


def test_an_unloaded_model_returns_all_of_its_device_memory(store: Path) -> None:
    with serving(store, model_store=store, device="cuda") as server:
        before = used()
        assert ask(server, "one", {"n": 1}).status == 200
        assert used() > before + 1024 * MIB
        assert unload(server, "one").status == 200
        assert falls_to(before + 16 * MIB)


def test_an_evicted_model_waits_with_its_weights_on_the_host_and_comes_back(store: Path) -> None:
    """Of its device memory only the context stays; the second time nothing is loaded."""
    settings: dict[str, object] = {"model_store": store, "device": "cuda", "max_models": 1, "spares": 0}
    seconds = {}
    for tier in ("0", "8GiB"):
        with serving(store, warm_tier_bytes=tier, **settings) as server:
            first = ask(server, "one", {"n": 1}).json()["pid"]
            alone = used()
            assert ask(server, "two", {"n": 1}).status == 200
            assert falls_to(alone + 900 * MIB), "one context beside the other model"
            began = time.monotonic()
            again = ask(server, "one", {"n": 3}).json()
            seconds[tier] = time.monotonic() - began
            assert again["double"] == 6.0
            assert (again["pid"] == first) == (tier != "0")
    print(f"an evicted model's answer: {seconds['0']:.3f} s loaded anew, {seconds['8GiB']:.3f} s from the warm tier")


def test_a_model_that_breaks_its_context_does_not_touch_its_neighbour(store: Path) -> None:
    with serving(store, model_store=store, device="cuda") as server:
        pid = ask(server, "two", {"n": 1}).json()["pid"]
        assert ask(server, "one", {"do": "assert", "n": 1}).status == 500
        after = ask(server, "two", {"n": 2}).json()
        assert (after["pid"], after["double"]) == (pid, 4.0)


@pytest.mark.parametrize("spares", [0, 1])
def test_a_killed_worker_is_replaced(tmp_path: Path, spares: int) -> None:
    async def run(server: Server) -> float:
        first = (await once(server.port, {"n": 1})).json()["pid"]
        began = time.monotonic()
        assert (await once(server.port, {"do": "assert", "n": 1})).status == 500
        assert (await once(server.port, {"n": 1})).json()["pid"] != first
        return time.monotonic() - began

    with serving(model_folder(tmp_path, "chip:Chip"), device="cuda", spares=spares) as server:
        seconds = asyncio.run(run(server))
    print(f"spares {spares}: two replacements and an answer after {seconds:.3f} s")
