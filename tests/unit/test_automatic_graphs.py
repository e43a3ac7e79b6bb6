"""Graphs that nobody asked for, on a fake device: they are there where no answer changes by them, and only there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving import BatchPolicy, Handler
from serving.worker.device.fake import FakeDevice
from serving.worker.loading.loader import warm
from serving.worker.loading.speed import accelerate
from tests.unit.test_speed import Small, model

X = torch.randn(8, 4)


class Net(nn.Module):
    """Rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found


def warmed(module: nn.Module, path: Path, handler: type[Small] = Small, **speed: Any) -> tuple[Small, FakeDevice]:
    device = FakeDevice("cpu")
    one = handler(module.eval())
    hastened = accelerate(one, model(path, **speed), device, lambda: None)
    warm(one, model(path), hastened)
    return one, device


def test_a_module_is_recorded_for_each_batch_size_and_stays_the_module_that_it_is(tmp_path: Path) -> None:
    module = Net()
    handler, device = warmed(module, tmp_path)
    assert device.captures == 4
    assert handler.module is module
    assert isinstance(handler.module, Net)
    with torch.inference_mode():
        for rows in (8, 1, 3, 5, 2):
            assert torch.allclose(handler.predict(X[:rows]), module.linear(X[:rows]))


def test_batches_between_the_sizes_are_filled_up_where_rows_are_alone(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Asks(Net):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return super().forward(x)

    handler, _ = warmed(Asks(), tmp_path)
    del sizes[:]
    with torch.inference_mode():
        handler.predict(X[:3])
        handler.predict(X[:5])
    assert sizes == [4, 8]  # the fake's replay calls it again


class Mean(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Last(nn.Module):
    """Time comes first, and what follows the last step counts."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[1]  # type: ignore[no-any-return]


class Whole(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum()


class Norm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softmax(x, 0)


class Best(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x / x.norm(dim=0, keepdim=True).clamp(min=1e-6)
        return found


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x.sort(0).values
        return found


@pytest.mark.parametrize("module", [Mean, Last, Whole, Norm, Best, Sorted])
def test_a_batch_is_never_filled_up_where_one_row_changes_what_another_gives(
    module: Callable[[], nn.Module], tmp_path: Path
) -> None:
    net = module().eval()
    plain = type(net).forward
    handler, _ = warmed(net, tmp_path)
    with torch.inference_mode():
        for rows in (1, 2, 3, 5, 7, 8):
            wanted = plain(net, X[:rows])
            assert torch.allclose(handler.predict(X[:rows]), wanted, atol=1e-6), rows


def with_hook() -> nn.Module:
    net = Net()
    net.linear.register_forward_hook(lambda *_: None)
    return net


class Remembers(Net):
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


class Counts(Net):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Collects(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return super().forward(x)


class Buffered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        self.kept = found.mean(0)
        return found


class Random(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(2)


def patched() -> nn.Module:
    net = Net()
    net.__dict__["forward"] = net.linear.forward
    return net


def script() -> Any:
    with torch.no_grad():
        return torch.jit.trace(Net(), X)  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("make", [with_hook, Remembers, Counts, Collects, Buffered, Random, patched, script])
def test_a_module_that_does_more_than_to_compute_runs_as_it_is(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    module = make()
    forward = vars(module).get("forward")
    _, device = warmed(module, tmp_path)
    assert vars(module).get("forward") == forward
    if make is not Random:
        assert device.captures == 0


def test_nothing_is_recorded_where_nothing_shows_the_input_or_it_is_forbidden(tmp_path: Path) -> None:
    class Cold(Small):
        warm = False

    for handler, speed in (
        (Cold, {}),
        (Small, {"cuda_graphs": False}),
        (Small, {"dtype": "bfloat16", "cuda_graphs": False}),
    ):
        one = handler(Net().eval())
        device = FakeDevice("cpu")
        found = accelerate(one, model(tmp_path, **speed), device, lambda: None)
        warm(one, model(tmp_path), found)
        assert device.captures == 0
        assert "forward" not in vars(getattr(one.module, "_module", one.module))


def test_a_handler_without_a_module_is_left_alone(tmp_path: Path) -> None:
    class Bare(Handler):
        policy = BatchPolicy(max_size=4)

        def predict(self, batch: Any) -> Any:
            return batch

    assert accelerate(Bare(), model(tmp_path), FakeDevice("cpu"), lambda: None) is None


def test_ever_new_kinds_of_input_are_not_recorded(tmp_path: Path) -> None:
    class Grows(Small):
        def warmup(self) -> None:
            for length in range(1, 20):
                self.predict(torch.zeros(1, length, 4))

    module = Net()
    _, device = warmed(module, tmp_path, Grows)
    assert device.captures == 0
    assert "forward" not in vars(module)


def test_other_types_of_numbers_are_recorded_beneath_the_casts(tmp_path: Path) -> None:
    module = Net()
    handler, device = warmed(module, tmp_path, dtype="bfloat16")
    assert device.captures == 4
    with torch.inference_mode():
        found = handler.predict(X[:3])
        assert found.dtype is torch.float32
        assert torch.allclose(found, module.linear(X[:3].bfloat16()).float(), atol=1e-2)


def test_another_thread_runs_beside_the_recording(tmp_path: Path) -> None:
    """Two replays at a time would have one memory."""
    calls: list[int] = []

    class Notes(Net):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().forward(x)

    handler, _ = warmed(Notes(), tmp_path)
    del calls[:]

    def ask() -> None:
        with torch.inference_mode():
            handler.predict(X[:3])

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert calls == [3]


class Pairs(Net):
    """One row is not enough for it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, 2, 4)).reshape(len(x), 2)


class Fours(Net):
    """Its largest batch is smaller than the handler's."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise ValueError("more than four")
        return super().forward(x)


class Large(Net):
    """There is no room for its largest batch, which requests may never make."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


class Even(Small):
    def warmup(self) -> None:
        self.predict(torch.zeros(2, 4))


@pytest.mark.parametrize("module", [Pairs, Fours, Large])
def test_what_only_the_recording_asks_for_never_fails_a_load(module: Callable[[], nn.Module], tmp_path: Path) -> None:
    handler, device = warmed(module(), tmp_path, Even)
    assert "forward" not in vars(handler.module)
    assert handler.predict(X[:2]).shape == (2, 2)
    assert device.kept == 0


def test_a_sample_that_the_handler_cannot_take_fails_no_load(tmp_path: Path) -> None:
    class Cold(Small):
        warm = False

        def decode(self, request: Any) -> Any:
            raise ValueError("of another model")

    (tmp_path / "sample.json").write_text("[1.0, 2.0, 3.0, 4.0]")
    handler, device = warmed(Net(), tmp_path, Cold)
    assert "forward" not in vars(handler.module)
    assert device.captures == 0


def test_a_device_that_is_lost_meanwhile_is_no_reason_to_go_on(tmp_path: Path) -> None:
    error = torch.AcceleratorError("an assert in a kernel")
    error.error_code = 710

    class Lost(Net):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_inference_mode_enabled() and len(x) == 1:
                raise error
            return super().forward(x)

    with pytest.raises(torch.AcceleratorError, match="assert in a kernel"):
        warmed(Lost(), tmp_path)


def test_zeros_show_nothing_of_other_rows_so_that_batches_are_not_filled_up(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Ids(Small):
        def warmup(self) -> None:
            self.predict(torch.zeros(2, 3, dtype=torch.long))

    class Embed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(1, 2)  # an index of one would not exist

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            found: Tensor = self.table(x)
            return found + x.sum()

    module = Embed().eval()
    handler, device = warmed(module, tmp_path, Ids)
    assert device.captures == 4
    del sizes[:]
    with torch.inference_mode():
        assert handler.predict(torch.zeros(3, 3, dtype=torch.long)).shape == (3, 3, 2)
    assert sizes == [3]
