"""Weights come to the device by way of a ring: whole, tied as they were, and with nothing left on the host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serving import load_weights
from serving.system import memory
from serving.weights.bus import Cuda
from serving.weights.ring import Ring
from serving.weights.statedict import load_safetensors, load_saved
from tests.unit.latebus import DTYPES, LateBus, filled, same

MIB = 1 << 20
DEVICE = os.environ.get("TEST_DEVICE", "cuda:0")  # cpu shows that these tests are right
BUS = None if DEVICE.startswith("cuda") else LateBus()


def mixed() -> dict[str, torch.Tensor]:
    """Of every type: a large tensor that is no whole number of chunks, many small ones, empty ones, and numbers."""
    weights: dict[str, torch.Tensor] = {}
    for n, dtype in enumerate(DTYPES):
        weights[f"{n}.large"] = filled((3, (5 * MIB + 77) // dtype.itemsize), dtype, n)
        weights[f"{n}.empty"] = torch.empty((0, 3), dtype=dtype)
        weights[f"{n}.number"] = filled((), dtype, n)
        weights.update({f"{n}.small{k}": filled((k, 3), dtype, k) for k in range(1, 60)})
    return weights


@pytest.mark.parametrize("chunk", [MIB + 4096, 8 * MIB])
def test_tensors_of_all_types_are_those_of_the_file(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "m.safetensors"
    save_file(mixed(), path)
    found = load_safetensors(path, DEVICE, BUS, Ring(chunk=chunk, least=0))
    expected = load_file(path)
    assert found.keys() == expected.keys()
    assert all(one.device == torch.device(DEVICE) for one in found.values())
    assert all(same(found[name].cpu(), expected[name]) for name in expected)


def test_tied_weights_share_memory_on_the_device(tmp_path: Path) -> None:
    base = torch.randn(4096, 4096)
    weights = {"base": base, "tied": base, "rows": base[5:9], "turned": base.t(), "bias": torch.randn(7)}
    torch.save(weights, tmp_path / "m.pt")
    found = load_saved(tmp_path / "m.pt", DEVICE, BUS)
    assert all(same(found[name].cpu(), weights[name]) for name in ("base", "tied", "rows", "bias"))
    assert found["turned"].stride() == base.t().stride()
    assert torch.equal(found["turned"].cpu(), base.t())
    found["base"].fill_(2)
    assert float(found["rows"].sum()) == 2 * 4 * 4096
    assert len({found[name].untyped_storage().data_ptr() for name in ("base", "tied", "rows", "turned")}) == 1


def test_the_host_has_its_memory_back_and_the_device_too(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({f"w{n}": torch.full((64, 1024, 1024), n, dtype=torch.uint8) for n in range(16)}, path)

    def load() -> None:
        started = time.monotonic()
        found = load_safetensors(path, DEVICE, BUS, Ring())
        print(f"{path.stat().st_size / (time.monotonic() - started) / 1e9:.1f} GB/s")
        assert [int(one.min()) for one in found.values()] == [int(name[1:]) for name in found]

    load()
    before = memory.memory_of("self").private
    on_device = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    load()
    assert memory.memory_of("self").private < before + 32 * MIB
    assert on_device == (torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="the host does not run ahead")
def test_memory_that_earlier_work_still_uses_is_not_written_before_that_is_done(tmp_path: Path) -> None:
    """The allocator gives memory again to who follows on the same stream, while kernels there still read it."""
    save_file({"w": torch.full((64 * MIB,), 9, dtype=torch.uint8)}, tmp_path / "m.safetensors")
    square = torch.rand(8192, 8192, device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    old = torch.ones(64 * MIB, dtype=torch.uint8, device=DEVICE)
    place = old.data_ptr()
    for _ in range(40):
        square = (square @ square).clamp(0, 1)
    total = old.sum()
    del old
    found = load_safetensors(tmp_path / "m.safetensors", DEVICE, None, Ring())
    assert found["w"].data_ptr() == place, "else this says nothing"
    assert int(total) == 64 * MIB
    assert int(found["w"].min()) == 9


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="nothing is pinned")
def test_memory_that_cannot_be_pinned_leaves_no_error_behind() -> None:
    bus = Cuda(DEVICE)
    with bus.use():
        chunk = bus.find(2 * MIB).fill_(3)
        bus.pin(chunk)
        with pytest.raises(RuntimeError, match="pinned"):
            bus.pin(chunk)
        assert float((torch.ones(3, device=DEVICE) + 1).sum()) == 6.0
        bus.free()


PARKS = """
import sys, torch
from serving import load_weights
from serving.worker.device.cuda import Cuda
device = Cuda("cuda:0")
device.open(1)
module = torch.nn.Linear(4096, 8192, bias=False)
module.load_state_dict(load_weights(sys.argv[1], "cuda:0"), assign=True)
before = module.weight.detach().cpu()
come_back = device.evacuate()
print(come_back is not None, torch.cuda.memory_allocated() < 1 << 20)
come_back()
print(module.weight.is_cuda, torch.equal(module.weight.detach().cpu(), before))
"""


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="nothing has to leave")
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_a_model_with_such_weights_can_be_parked(tmp_path: Path, form: str) -> None:
    weights = {"weight": torch.randn(8192, 4096)}
    path = tmp_path / f"m.{form}"
    if form == "pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    done = subprocess.run([sys.executable, "-c", PARKS, str(path)], capture_output=True, text=True, timeout=100)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    assert lines == ["True True", "True True"], done.stderr


def test_what_handlers_call_is_this_way(tmp_path: Path) -> None:
    save_file({"w": torch.arange(16 * MIB)}, tmp_path / "m.safetensors")
    assert torch.equal(load_weights(tmp_path / "m.safetensors", DEVICE)["w"].cpu(), torch.arange(16 * MIB))
