"""Several models on one GPU: each has its own process, and its memory is back when that ends."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import torch

from serving.ipc.faults import Fault
from serving.worker.device.cuda import Cuda
from tests.e2e.server import model_folder, serving
from tests.e2e.store import ask, unload
from tests.e2e.test_spares import times
from tests.gpu.nvml import MIB, falls_to, used


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        model_folder(tmp_path / name, "chip:Chip", "[options]\nmib = 1024")
    # model_folder makes a folder "model" within, as the platform does.
    return tmp_path


def test_an_unloaded_model_returns_all_of_its_device_memory(store: Path) -> None:
    with serving(store, model_store=store, device="cuda:0", spares=0) as server:
        before = used()
        assert ask(server, "one", {"n": 1}).status == 200
        assert used() > before + 1024 * MIB
        assert unload(server, "one").status == 200
        assert falls_to(before + 16 * MIB)


def test_an_evicted_model_returns_all_of_its_device_memory_or_waits_with_its_weights_on_the_host(store: Path) -> None:
    """In the warm tier only its context stays on the device, and the second time nothing is loaded."""
    settings: dict[str, object] = {
        "model_store": store,
        "device": "cuda:0",
        "max_models": 1,
        "spares": 0,
        "host_memory": "48GiB",  # of a machine that shows little memory at first the usual share may be too little
    }
    seconds = {}
    for tier, stays in (("0", 16 * MIB), ("8GiB", 900 * MIB)):
        with serving(store, warm_tier_bytes=tier, **settings) as server:
            first = ask(server, "one", {"n": 1}).json()["pid"]
            alone = used()
            assert ask(server, "two", {"n": 1}).status == 200
            assert falls_to(alone + stays), "beside the other model, which is as large"
            began = time.monotonic()
            again = ask(server, "one", {"n": 3}).json()
            seconds[tier] = time.monotonic() - began
            for message in ("the model's weights are on the host", "the weights are back"):
                print(message, [line["seconds"] for line in server.lines(message=message)])
            assert again["double"] == 6.0
            assert (again["pid"] == first) == (tier != "0")
    print(f"an evicted model's answer: {seconds['0']:.3f} s loaded anew, {seconds['8GiB']:.3f} s from the warm tier")


def test_a_model_that_breaks_its_context_does_not_touch_its_neighbour(store: Path) -> None:
    with serving(store, model_store=store, device="cuda:0") as server:
        pid = ask(server, "two", {"n": 1}).json()["pid"]
        assert ask(server, "one", {"do": "assert", "n": 1}).status == 500
        after = ask(server, "two", {"n": 2}).json()
        assert (after["pid"], after["double"]) == (pid, 4.0)


def test_an_error_without_a_code_on_a_device_without_room_is_one_of_memory() -> None:
    device = Cuda("cuda:0")
    device.open(1)
    assert device.fault(RuntimeError("of a library")) is Fault.NONE
    filled = []
    for size in (1024 * MIB, 32 * MIB, 2 * MIB):  # until almost nothing is left
        while torch.cuda.mem_get_info(0)[0] > size + 16 * MIB:
            try:
                filled.append(torch.empty(size, dtype=torch.uint8, device="cuda:0"))
            except torch.OutOfMemoryError:
                break
    assert device.fault(RuntimeError("of a library")) is Fault.MEMORY
    del filled
    device.free()
    assert device.fault(RuntimeError("of a library")) is Fault.NONE


def test_a_killed_worker_is_replaced_and_sooner_where_a_spare_waits(tmp_path: Path) -> None:
    folder, measured = model_folder(tmp_path, "chip:Chip"), {}
    for spares in (0, 1):
        with serving(folder, device="cuda:0", spares=spares) as server:
            measured[spares] = statistics.median(times(server, 5, spares))
    print(f"from SIGKILL to the next answer: {measured[0]:.0f} ms without a spare, {measured[1]:.0f} ms with one")
    assert measured[1] < measured[0]
