"""Graphs of kernels on a real device: what is replayed is what would have been computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving import BatchPolicy, Handler
from serving.ipc.faults import Fault
from serving.model.model import Model
from serving.worker.device.cuda import Cuda
from serving.worker.loading.loader import warm
from serving.worker.loading.speed import Automatic, accelerate
from serving.worker.loading.speed.graphs import Graphed
from serving.worker.loading.speed.sizes import Sized

SIZES = (1, 2, 8)
MIB = 1 << 20


@pytest.fixture(scope="module")
def device() -> Cuda:
    found = Cuda("cuda:0")
    found.open(1, tf32=False)
    return found


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def recorded(device: Cuda, module: Callable[..., Tensor], *calls: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Sized:
    graphed = Graphed(module, device.capture, device.name)
    sized = Sized(graphed, sizes)
    for call in calls:
        sized(*call)
    graphed.begin()
    sized.warm()
    graphed.settle()
    return sized


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda:0")


def test_replays_give_what_the_module_gives_and_leave_earlier_outputs_alone(device: Cuda) -> None:
    module = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)).to("cuda:0").eval()
    sized = recorded(device, module, (randn(1, 16),), sizes=SIZES)
    inputs = [randn(rows, 16) for rows in (8, 1, 3, 2, 5, 8, 1)]
    found = [sized(x) for x in inputs]
    for x, y in zip(inputs, found, strict=True):
        assert torch.allclose(y, module(x), atol=1e-5)


def test_names_values_and_order_in_memory_are_kept_apart(device: Cuda) -> None:
    def mix(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return (x - y) * scale

    sized = recorded(device, mix, (randn(1, 4), randn(1, 4)), sizes=SIZES)
    x, y = randn(8, 4), randn(8, 4)
    assert torch.equal(sized(x, y), x - y)
    assert torch.equal(sized(y=x, x=y), y - x)
    assert torch.equal(sized(x, y, scale=3.0), (x - y) * 3)


def test_autocast_within_a_recorded_call_reads_weights_that_are_still_there(device: Cuda) -> None:
    module = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 4)).to("cuda:0").eval()

    def half(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.float16):
            found: Tensor = module(x)
            return found

    within = recorded(device, half, (randn(1, 256),), sizes=SIZES)
    graphed = Graphed(module, device.capture, device.name)
    around = Sized(graphed, SIZES)
    with torch.autocast("cuda", torch.float16):
        around(randn(1, 256))
    graphed.begin()
    around.warm()
    graphed.settle()
    x = randn(8, 256)
    exact = half(x)
    litter = [randn(256, 256).half() for _ in range(64)]  # where cached copies would have been
    assert torch.allclose(within(x), exact, atol=1e-2)
    with torch.autocast("cuda", torch.float16):
        assert torch.allclose(around(x), exact, atol=1e-2)
    assert around(x).dtype is torch.float32
    del litter


def test_all_sizes_share_their_memory(device: Cuda) -> None:
    def wide(x: Tensor) -> Tensor:
        y = x.repeat(1, 1 << 20)  # 4 MiB a row
        for _ in range(4):
            y = y + 1
        return y.sum(1)

    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    sized = recorded(device, wide, (randn(1, 1),), sizes=(4, 8, 12, 16))
    torch.cuda.empty_cache()
    grown = torch.cuda.memory_reserved() - before
    assert grown < 2.5 * 2 * 16 * 4 * MIB, "two tensors of the largest size, and what is rounded up"
    assert torch.allclose(sized(torch.ones(3, 1, device="cuda:0")), torch.full((3,), 5.0 * (1 << 20), device="cuda:0"))


def test_a_capture_that_is_broken_off_leaves_a_device_that_computes_and_records(
    device: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    def asks(x: Tensor) -> Tensor:
        return x * (2 if x.sum().item() >= 0 else 3)

    sized = recorded(device, asks, (torch.ones(1, 4, device="cuda:0"),), sizes=SIZES)
    assert caplog.text.count("cannot be recorded") == 1
    x = torch.ones(8, 4, device="cuda:0")
    assert torch.equal(sized(x), 2 * x)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert not torch.equal(torch.rand(64, device="cuda:0"), torch.rand(64, device="cuda:0"))
    assert device.fault(RuntimeError("of a library")) is Fault.NONE
    again = recorded(device, lambda x: x * 2, (x[:1],), sizes=SIZES)
    assert torch.equal(again(x), 2 * x)
    freed = torch.cuda.memory_reserved()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    for _ in range(64):  # what two streams have used is used again
        block = torch.empty(16 * MIB, dtype=torch.uint8, device="cuda:0")
        block.record_stream(side)
        del block
        torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() - freed < 256 * MIB


@pytest.mark.parametrize(
    "lazy", [torch.conj, lambda x: x.conj().imag, lambda x: x.conj()[::2].real, lambda x: x.imag.t(), lambda x: x[0, 0]]
)
def test_what_is_lazy_is_right_on_the_host(device: Cuda, lazy: Callable[[Tensor], Tensor]) -> None:
    tensor = torch.randn(2048, 2048, dtype=torch.complex64, device="cuda:0")
    busy = randn(4096, 4096)
    for _ in range(8):
        busy = busy @ busy  # the copy comes late
    landing = device.fetch({"x": lazy(tensor * 1)})
    assert torch.equal(landing.wait()["x"], lazy(tensor).cpu())


@pytest.mark.parametrize("reads", [False, True])
def test_a_module_is_recorded_by_itself_where_it_can_be(device: Cuda, reads: bool, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.convs(x).flatten(1)
            return found * (2 if reads and found.sum().item() > 1e9 else 1)

    class Pictures(Handler):
        policy = BatchPolicy(max_size=8)
        module: nn.Module = Net().to("cuda:0").eval()

        def predict(self, batch: Tensor) -> Any:
            return self.module(batch)

        def warmup(self) -> None:
            self.predict(randn(2, 3, 32, 32))

    handler = Pictures()
    path = str(tmp_path)
    found = accelerate(handler, Model("m", path, path, "a:B", 60.0, 1, "cuda:0", 1, 10), device, lambda: None)
    assert isinstance(found, Automatic)
    warm(handler, Model("m", path, path, "a:B", 60.0, 1, "cuda:0", 1, 10), found, "cuda:0")
    assert ("forward" in vars(handler.module)) is not reads
    for rows in (8, 1, 3, 5, 2):
        x = randn(rows, 3, 32, 32)
        assert torch.allclose(handler.predict(x), Net.forward(handler.module, x), atol=1e-2)  # type: ignore[arg-type]
