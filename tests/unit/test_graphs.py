"""Recorded graphs, on a fake device: whatever a module is called with, its answer is that of the module."""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving.metrics import catalog, instruments
from serving.metrics.region import Region
from serving.system.devicefaults import Cuda
from serving.worker.device.fake import FakeDevice
from serving.worker.loading.speed.alike import difference
from serving.worker.loading.speed.graphs import Graphed
from serving.worker.loading.speed.kinds import kind_of
from serving.worker.loading.speed.sizes import Sized, fill
from tests.unit.test_speed import Noting, Small, hastened

Pair = namedtuple("Pair", "x y")
X, Y = torch.arange(8.0).reshape(2, 4), torch.arange(8.0).reshape(2, 4) * 10


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """As batches are run."""
    with torch.inference_mode():
        yield


def recorded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Graphed, FakeDevice]:
    """``function`` after it was recorded with these arguments."""
    device = FakeDevice("cpu")
    graphed = Graphed(function, device.capture, "cpu")
    graphed.begin()
    graphed(*args, **kwargs)
    graphed.settle()
    return graphed, device


# What a recording depends on.


def mix(x: Any, y: Any = None, *more: Any, scale: float = 1.0, how: Any = None, **named: Any) -> Tensor:
    """Every argument counts, and each in another way."""
    if isinstance(x, dict | list | tuple):
        return (
            mix(*(x.values() if isinstance(x, dict) else x))
            + len(str(type(x)))
            + sum(map(len, x if isinstance(x, dict) else ()))
        )
    found = x * scale
    for number, other in enumerate([y, *more, *(named[name] for name in sorted(named))], 2):
        found = found + (0 if other is None else other) * number
    return found + len(str(how)) if how is not None else found


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((X,), {}),
    ((X, Y), {}),
    ((X,), {"y": Y}),
    ((X,), {"other": Y}),
    ((X,), {"scale": 1.0}),
    ((X,), {"scale": 5.0}),
    ((X,), {"scale": True}),
    ((X,), {"scale": -0.0}),
    ((X, None, Y), {}),
    ((X, Y, None), {}),
    ((X, 2), {}),
    ((X, 2.0), {}),
    ((X, 3.0), {}),
    ((X,), {"how": "sum"}),
    ((X,), {"how": torch.float16}),
    ((X,), {"how": ("a", ("b",))}),
    ((X,), {"how": ("a", "b")}),
    (([X, Y],), {}),
    (((X, Y),), {}),
    ((Pair(X, Y),), {}),
    (({"a": X, "b": Y},), {}),
    (({"b": X, "a": Y},), {}),
    (({"a": X, "bb": Y},), {}),
    ((X.double(),), {}),
    ((X.T,), {}),
    ((X[:1],), {}),
    ((X[None],), {}),
    ((X.half(), Y), {}),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_a_graph_answers_for_calls_of_its_own_kind_alone(number: int) -> None:
    args, kwargs = CALLS[number]
    graphed, device = recorded(mix, *args, **kwargs)
    assert device.captures == 1
    for args, kwargs in [*CALLS, ((Y, X), {}), ((Y,), {})]:
        assert torch.equal(graphed(*args, **kwargs), mix(*args, **kwargs)), (args, kwargs)


def test_no_two_of_these_calls_are_of_one_kind() -> None:
    for (a, one), (b, other) in itertools.combinations(CALLS, 2):
        assert kind_of(a, one) != kind_of(b, other), (a, one, b, other)


def test_all_of_them_recorded_beside_each_other_answer_for_themselves() -> None:
    device = FakeDevice("cpu")
    graphed = Graphed(mix, device.capture, "cpu")
    graphed.begin()
    for args, kwargs in CALLS:
        graphed(*args, **kwargs)
    graphed.settle()
    assert device.captures == len(CALLS)
    found = [graphed(*args, **kwargs) for args, kwargs in CALLS * 2]
    for output, (args, kwargs) in zip(found, CALLS * 2, strict=True):
        assert torch.equal(output, mix(*args, **kwargs))


def test_the_order_in_which_names_are_written_makes_no_other_kind() -> None:
    graphed, device = recorded(mix, x=X, other=Y)
    runs = len(device.pool)
    assert torch.equal(graphed(other=X, x=Y), mix(x=Y, other=X))
    assert kind_of((), {"x": X, "y": Y}) == kind_of((), {"y": Y, "x": X})
    assert len(device.pool) == runs


class Config:
    """Somebody's own, which changes behind its identity."""

    scale = 2.0


@pytest.mark.parametrize(
    "odd", [Config(), {1, 2}, [Config()], torch.eye(2).to_sparse()], ids=lambda odd: type(odd).__name__
)
def test_what_cannot_be_told_apart_runs_without_a_graph(odd: Any) -> None:
    def scaled(x: Tensor, config: Any) -> Tensor:
        return x * config.scale if isinstance(config, Config) else x

    graphed, device = recorded(scaled, X, odd)
    assert device.captures == 0
    if isinstance(odd, Config):
        odd.scale = 7.0
    assert torch.equal(graphed(X, odd), scaled(X, odd))


def test_a_call_that_is_to_have_gradients_runs_without_a_graph() -> None:
    graphed, _ = recorded(lambda x: x * 2, X)
    with torch.inference_mode(False):
        x = torch.ones(2, 4, requires_grad=True)
        assert graphed(x).requires_grad


def test_tensors_that_are_elsewhere_would_be_recorded_as_numbers_and_run_without_a_graph() -> None:
    device = FakeDevice("cuda:0")  # where these tensors are not
    graphed = Graphed(mix, device.capture, device.name)
    graphed.begin()
    graphed(X)
    assert device.captures == 0


def test_autocast_makes_another_kind_and_is_on_when_its_sizes_are_recorded() -> None:
    linear = nn.Linear(4, 2)
    device = FakeDevice("cpu")
    graphed = Graphed(linear, device.capture, "cpu")
    sized = Sized(graphed, (1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        sized(X)
    graphed.begin()
    sized.warm()
    graphed.settle()
    assert device.captures == 2
    assert sized(X).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert sized(X).dtype is torch.bfloat16


# Outputs.


def test_outputs_of_one_call_stay_when_another_is_replayed() -> None:
    graphed, _ = recorded(lambda x: {"sum": (x.sum(1), x + 1)}, X)
    first, second = graphed(X), graphed(Y)
    for found, x in ((first, X), (second, Y)):
        assert torch.equal(found["sum"][0], x.sum(1))
        assert torch.equal(found["sum"][1], x + 1)


def test_an_output_that_is_an_input_or_a_part_of_one_is_the_callers_alone() -> None:
    graphed, _ = recorded(lambda x: (x, x[:, :2]), X)
    first = graphed(X)
    graphed(Y)
    assert torch.equal(first[0], X)
    assert torch.equal(first[1], X[:, :2])


def test_what_a_call_is_given_may_be_its_own_earlier_output() -> None:
    graphed, _ = recorded(lambda x: x * 2, X)
    assert torch.equal(graphed(graphed(graphed(X))), X * 8)


# Recording.


def test_graphs_are_recorded_from_the_largest_size_down_and_not_before_all_is_known(tmp_path: Path) -> None:
    module = Noting()
    device = FakeDevice("cpu")
    hastened(Small(module), tmp_path, device, cuda_graphs=True)
    assert [len(outputs[0]) for outputs in device.pool] == [8, 4, 2, 1]


@pytest.mark.parametrize("code", [900, 901, 906])
def test_a_module_that_cannot_be_recorded_runs_without_a_graph_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    error = torch.AcceleratorError("operation not permitted when stream is capturing")
    error.error_code = code
    module = Noting()
    handler = Small(module)
    hastened(handler, tmp_path, FakeDevice("cpu", unrecordable=error), cuda_graphs=True)
    for rows in (1, 3, 8):
        x = torch.randn(rows, 4)
        assert torch.allclose(handler.predict(x), module(x))
    assert caplog.text.count("cannot be recorded") == 1


def test_a_size_too_large_to_be_recorded_is_no_reason_not_to_record_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Narrow(FakeDevice):
        def capture(self, function: Callable[[], Any]) -> Any:
            found = super().capture(function)
            if len(found[1]) > 4:
                self.captures -= 1
                raise torch.OutOfMemoryError
            return found

    device = Narrow("cpu")
    hastened(Small(Noting()), tmp_path, device, cuda_graphs=True)
    assert device.captures == 3
    assert caplog.text.count("cannot be recorded") == 1


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, IndexError])
def test_other_numbers_that_a_module_cannot_take_say_nothing_of_the_recording(kind: type[Exception]) -> None:
    def picky(x: Tensor) -> Tensor:
        if x.max() < 4:
            raise kind("too small")
        return x * 2

    graphed, device = recorded(picky, X)
    assert (device.captures, graphed.count) == (1, 1)


def test_a_device_that_is_lost_while_it_records_is_not_served_from(tmp_path: Path) -> None:
    error = torch.AcceleratorError("gone")
    error.error_code = Cuda.ILLEGAL_ADDRESS
    device = FakeDevice("cpu", unrecordable=error)

    class Breaks(Noting):
        def forward(self, x: Tensor) -> Tensor:
            if device.lost is not None:
                raise device.lost
            return super().forward(x)

    class Breaking(Small):
        def warmup(self) -> None:
            super().warmup()
            device.lost = error

    with pytest.raises(torch.AcceleratorError):
        hastened(Breaking(Breaks()), tmp_path, device, cuda_graphs=True)


def test_an_error_of_the_model_is_not_one_of_recording(caplog: pytest.LogCaptureFixture) -> None:
    graphed = Graphed(nn.Linear(3, 2), FakeDevice("cpu").capture, "cpu")
    graphed.begin()
    with pytest.raises(RuntimeError, match="shapes"):
        graphed(X)
    assert not caplog.records


def test_it_is_said_once_that_a_call_is_of_no_kind_that_was_recorded(caplog: pytest.LogCaptureFixture) -> None:
    graphed, _ = recorded(mix, X)
    for _ in range(3):
        graphed(X, scale=2.0)
    assert caplog.text.count("runs without a graph") == 1


# Sizes.


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(
    "lay",
    [
        lambda x: x.contiguous(),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    ],
)
def test_a_batch_that_is_filled_up_is_laid_out_as_a_full_one(lay: Callable[[Tensor], Tensor], rows: int) -> None:
    whole = lay(torch.randn(4, 3, 5, 6))
    filled = fill(lay(whole[:rows].contiguous()), rows, 4)
    assert torch.equal(filled[:rows], whole[:rows])
    assert torch.equal(filled[rows:], whole[rows - 1 : rows].expand(4 - rows, -1, -1, -1))
    assert kind_of((filled,), {}) == kind_of((whole,), {})


def test_modes_of_the_compiler_that_record_are_run_until_they_replay(tmp_path: Path) -> None:
    calls: list[int] = []

    def count(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x

    sized = Sized(count, (1, 4))
    sized(X[:1])
    calls.clear()
    sized.warm(3)
    assert calls == [4] * 3 + [1] * 3


# A recording is compared with the module before it is used.


class Counting(nn.Module):
    """What no recording repeats: a number that the host counts, or one that is drawn."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.calls, self.weight = way, 0, torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.way == "counts":
            return x * self.calls
        if self.way == "draws":
            return x + torch.rand_like(x)
        return x * self.weight


class Frozen(FakeDevice):
    """Replays as a device does: kernels alone, with what the host has put into them."""

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        outputs = function()
        self.captures += 1
        return lambda: None, outputs


@pytest.mark.parametrize("way", ["counts", "draws"])
def test_a_recording_that_differs_from_the_module_is_not_used(way: str, caplog: pytest.LogCaptureFixture) -> None:
    module = Counting(way)
    graphed, device = recorded(module, X)
    assert device.captures == 1
    assert "gives other values than the model" in caplog.text
    before = module.calls
    graphed(X)
    assert module.calls == before + 1


def test_one_with_the_numbers_of_its_first_input_in_it_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    graphed = Graphed(Counting("plain"), Frozen("cpu").capture, "cpu")
    graphed.begin()
    assert torch.equal(graphed(X), 2 * X)
    graphed.settle()
    assert "gives other values than the model" in caplog.text
    assert torch.equal(graphed(Y), 2 * Y)


@pytest.mark.parametrize(
    ("wanted", "found", "is_same"),
    [
        (X, X + 1e-3, True),
        (X, X + 0.1, False),
        (X.half(), X.half() + 0.1, True),
        (X, X.double(), False),
        (X, X[:1], False),
        ((X, Y), (X,), False),
        ({"a": X}, {"a": X.clone()}, True),
        (X.long(), X.long() + 1, False),
        (X.to(torch.int8), X.to(torch.int8) + 1, False),
        (X.to(torch.complex64), X.to(torch.complex64) * (1 + 1e-4), True),
        (torch.zeros(3), torch.full((3,), 1e-9), False),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0]), False),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("nan")]), False),
        (torch.zeros(0, 3), torch.zeros(0, 3), True),
        (torch.tensor([True, False]), torch.tensor([True, True]), False),
        (torch.tensor([1 + 2j]), torch.tensor([1 - 2j]), False),
    ],
)
def test_what_counts_as_the_same(wanted: Any, found: Any, is_same: bool) -> None:
    assert (difference(wanted, found) is None) is is_same


def test_replays_and_misses_are_counted() -> None:
    region = Region.private()
    instruments.use(region, {"model": "m"}, {})
    graphed, _ = recorded(mix, X)
    for _ in range(3):
        graphed(X)
    graphed(X, Y)
    found = {one.series: one.sum for one in region.read()}
    assert found == {catalog.GRAPH_REPLAYS.of("m"): 3, catalog.GRAPH_MISSES.of("m"): 1}
