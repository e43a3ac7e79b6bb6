"""What a process's tensors hold leaves a device and comes back; here the host's own tensors stand for a GPU's."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable

import pytest
import torch

from serving.system.pinned import Pages
from serving.worker.device.evacuation import Evacuation
from serving.worker.device.fake import FakeDevice
from serving.worker.device.host import Host
from serving.worker.parking import Parking


def nothing() -> None:
    """There is no stream to wait for."""


class Tied(torch.nn.Module):
    """Shares a weight, has a buffer, a view and a tensor that no module knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(50, 50)
        self.second = torch.nn.Linear(50, 50)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.arange(50.0))
        self.rows = self.first.weight.detach()[10:20]
        with torch.inference_mode():
            self.others = {"scale": [torch.full((50,), 2.0)]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) * self.others["scale"][0] + self.shift + self.rows.sum()


def evacuation() -> Evacuation:
    # Small chunks, so that a tensor lies across several.
    return Evacuation(torch.device("cpu"), lambda size: torch.empty(size, dtype=torch.uint8), 4096)


def alone(function: Callable[[], None]) -> None:
    """Run in a process with no tensors of others."""
    process = multiprocessing.get_context("spawn").Process(target=function)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def everything() -> None:
    leaving = evacuation()
    model, x = Tied(), torch.randn(3, 50)
    with torch.inference_mode():
        before = model(x)
    gc.freeze()  # as a loaded worker does
    leaving.leave(nothing)
    held = [model.first.weight, model.first.bias, model.shift, model.rows, model.others["scale"][0]]
    assert [one.untyped_storage().nbytes() for one in held] == [0] * 5
    assert leaving.size >= 50 * 50 * 4 + 4 * 50 * 4
    leaving.come_back(nothing)
    assert leaving.size == 0
    assert model.second.weight is model.first.weight
    assert model.rows.untyped_storage().data_ptr() == model.first.weight.untyped_storage().data_ptr()
    with torch.inference_mode():
        assert torch.equal(model(x), before)


def test_everything_leaves_and_comes_back_as_it_was() -> None:
    alone(everything)


def script_module() -> None:
    leaving = evacuation()
    script = torch.jit.script(torch.nn.Linear(40, 40))
    x = torch.randn(2, 40)
    with torch.inference_mode():
        before = script(x)
    leaving.leave(nothing)
    assert next(script.parameters()).untyped_storage().nbytes() == 0
    leaving.come_back(nothing)
    with torch.inference_mode():
        assert torch.equal(script(x), before)


def test_parameters_of_torchscript_leave_although_python_does_not_see_them() -> None:
    alone(script_module)


def test_memory_that_is_somebody_elses_keeps_everything_where_it_is() -> None:
    leaving = evacuation()
    mine, borrowed = torch.arange(5), torch.frombuffer(bytearray(40), dtype=torch.int64)
    with pytest.raises(RuntimeError, match="somebody else"):
        leaving.leave(nothing)
    assert mine.tolist() == [0, 1, 2, 3, 4]
    assert borrowed.tolist() == [0] * 5


def again_and_again() -> None:
    leaving = evacuation()
    tensor = torch.arange(3000)
    for _ in range(3):
        leaving.leave(nothing)
        leaving.come_back(nothing)
    assert torch.equal(tensor, torch.arange(3000))


def test_it_can_be_done_again_and_again() -> None:
    alone(again_and_again)


def test_the_host_is_where_weights_should_be() -> None:
    tensor = torch.arange(5)
    come_back = Host().evacuate()
    assert tensor.tolist() == [0, 1, 2, 3, 4]
    come_back()


def test_a_device_on_which_something_stays_says_so() -> None:
    assert FakeDevice(stays=True).evacuate() is None


# The word that a parked worker waits for.


def test_one_that_is_wanted_again_is_told() -> None:
    parking = Parking()
    assert not parking.is_asked
    parking.ask()
    assert parking.is_asked
    parking.take()
    assert parking.wait() is True
    assert not parking.is_asked, "until it is asked again"


def test_one_that_is_to_end_is_told_also_where_it_was_wanted_before() -> None:
    parking = Parking()
    parking.ask()
    parking.take()
    assert parking.dismiss() is True
    assert parking.wait() is False


def test_who_was_not_asked_to_park_is_not_called_back() -> None:
    parking = Parking()
    parking.take()
    assert parking.dismiss() is False
    assert not parking.is_asked


class Runtime:
    """CUDA's, which has room for ``most`` pieces."""

    def __init__(self, most: int = 9) -> None:
        self.most = most
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if len(self.registered) == self.most:
            return 2
        self.registered[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.registered[address]
        return 0


def test_pages_are_pinned_while_they_are_held_and_given_back_at_once() -> None:
    pages = Pages(runtime := Runtime())
    tensors = [pages.allocate(size) for size in (1, 5000, 1 << 20)]
    assert [runtime.registered[one.data_ptr()] for one in tensors] == [1, 5000, 1 << 20]
    tensors[1].fill_(7)
    assert int(tensors[1].sum()) == 35000
    del tensors
    pages.free()
    assert not runtime.registered


def test_memory_that_cannot_be_pinned_is_an_error_and_what_was_pinned_before_goes() -> None:
    pages = Pages(runtime := Runtime(most=1))
    pages.allocate(10)
    with pytest.raises(RuntimeError, match="pinned"):
        pages.allocate(10)
    pages.free()
    assert not runtime.registered
