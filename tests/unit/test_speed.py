"""Types of numbers, memory order, compilation, graphs and freezing, as ``serving.toml`` asks for them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving import BatchPolicy, Handler
from serving.config.config import load
from serving.errors import ModelError
from serving.model.folder import read_model
from serving.model.model import Model, Speed
from serving.worker.device.border import Device
from serving.worker.device.cuda import set_tf32
from serving.worker.device.fake import FakeDevice
from serving.worker.device.host import Host
from serving.worker.loading.loader import warm
from serving.worker.loading.speed import Accelerated, accelerate
from serving.worker.loading.speed.compiled import compilations, end_compilers
from serving.worker.loading.speed.optimized import Optimized
from serving.worker.loading.speed.sizes import Sized, sizes_for

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")


class Small(Handler):
    """Keeps its network as ``self.module``."""

    policy = BatchPolicy(max_size=8)
    warm = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def predict(self, batch: Tensor) -> Any:
        return self.module(batch)

    def warmup(self) -> None:
        if self.warm:
            self.predict(torch.zeros(3, 4))


class Noting(nn.Module):
    """Writes down the shape and type of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.calls: list[tuple[int, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((len(x), x.dtype))
        return self.linear(x)  # type: ignore[no-any-return]


def model(path: Path, **speed: Any) -> Model:
    return Model("m", str(path), str(path), "a:B", 60.0, 1, "cpu", 1, 10, speed=Speed(**speed))


def hastened(
    handler: Handler, path: Path, device: Device | None = None, told: Callable[[], None] = lambda: None, **speed: Any
) -> Accelerated:
    found = accelerate(handler, model(path, **speed), device or Host(), told)
    assert found is not None
    handler.warmup()
    found.warm(path)
    return found


# The keys.


def test_the_keys_of_serving_toml_are_read(tmp_path: Path) -> None:
    toml = 'handler = "a:B"\ndtype = "bfloat16"\ncompile = "default"\nchannels_last = true\ncuda_graphs = true\n'
    (tmp_path / "serving.toml").write_text(toml + "batch_sizes = [1, 4]\n")
    speed = read_model(tmp_path, "m", load({}, {}), 2).speed
    assert speed == Speed("bfloat16", True, "default", True, (1, 4))
    (tmp_path / "serving.toml").write_text('handler = "a:B"\noptimize = true\n')
    assert read_model(tmp_path, "m", load({}, {}), 2).speed == Speed(optimize=True)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('dtype = "int8"', 'dtype is \'int8\'; allowed: "float32", "float16", "bfloat16"'),
        ('compile = "fast"', 'compile is \'fast\'; allowed: "off", "default", "reduce-overhead", "max-autotune"'),
        ("batch_sizes = [0]", r"batch_sizes is \[0\]; allowed: a list of integers from 1 to 1024"),
        ("cuda_graphs = 1", "cuda_graphs"),
        ("optimize = 1", "optimize"),
        ('optimize = true\ncompile = "default"', "optimize is true and compile 'default'; allowed: one of them"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(tmp_path: Path, toml: str, words: str) -> None:
    (tmp_path / "serving.toml").write_text(f'handler = "a:B"\n{toml}\n')
    with pytest.raises(ModelError, match=words):
        read_model(tmp_path, "m", load({}, {}), 2)


def test_without_any_of_them_the_module_is_left_alone(tmp_path: Path) -> None:
    handler = Small(Noting())
    before = handler.module
    assert accelerate(handler, model(tmp_path), Host(), lambda: None) is None
    assert handler.module is before


def test_a_handler_without_a_module_is_an_error_that_names_the_keys(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dtype, compile: Handler keeps no"):
        accelerate(Handler(), model(tmp_path, dtype="float16", compile="default"), Host(), lambda: None)


# Types and order.


def test_weights_and_input_have_the_type_and_outputs_are_float32_again(tmp_path: Path) -> None:
    module = Noting()
    exact = module(torch.ones(1, 4))
    handler = Small(module)
    hastened(handler, tmp_path, dtype="bfloat16")
    output = handler.predict(torch.ones(1, 4))
    assert module.calls[-1][1] is torch.bfloat16
    assert module.linear.weight.dtype is torch.bfloat16
    assert output.dtype is torch.float32
    assert torch.allclose(output, exact, atol=0.05)
    assert not torch.equal(output, exact), "this was bfloat16"


def test_integers_keep_their_type(tmp_path: Path) -> None:
    module = nn.Embedding(10, 4)
    handler = Small(module)
    handler.warm = False
    hastened(handler, tmp_path, dtype="float16")
    assert handler.predict(torch.tensor([[1, 2]])).shape == (1, 2, 4)


def test_pictures_and_weights_are_channels_last(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return self.conv(x)  # type: ignore[no-any-return]

    module = Look()
    x = torch.randn(2, 3, 8, 8)
    exact = module(x)
    handler = Small(module)
    handler.warm = False
    hastened(handler, tmp_path, channels_last=True)
    assert torch.allclose(handler.predict(x), exact, atol=1e-5)
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)
    assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_what_else_a_handler_reads_of_its_module_is_still_there(tmp_path: Path) -> None:
    handler = Small(Noting())
    hastened(handler, tmp_path, dtype="float16")
    assert isinstance(handler.module.linear, nn.Linear)


# Batch sizes.


def test_sizes_are_powers_of_two_and_the_largest_batch_unless_they_are_named() -> None:
    assert sizes_for((), 32) == (1, 2, 4, 8, 16, 32)
    assert sizes_for((), 12) == (1, 2, 4, 8, 12)
    assert sizes_for((4, 64), 32) == (4, 32)


def test_a_batch_is_filled_up_to_the_next_size_and_each_row_gets_its_own_output() -> None:
    sizes: list[int] = []

    def double(x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        sizes.append(len(x))
        return {"y": x * scale, "sum": x.sum(1)}

    sized = Sized(double, (2, 4, 8))
    for rows in (1, 2, 3, 5, 8, 11):
        x = torch.randn(rows, 3)
        found = sized(x, torch.tensor(2.0))
        assert torch.equal(found["y"], 2 * x)
        assert torch.equal(found["sum"], x.sum(1))
    assert sizes == [2, 2, 4, 8, 8, 11]


def test_every_size_of_every_kind_of_input_is_run_before_the_first_request(tmp_path: Path) -> None:
    module = Noting()
    handler = Small(module)
    device = FakeDevice("cpu")
    hastened(handler, tmp_path, device, cuda_graphs=True)
    assert {size for size, _ in module.calls} == {1, 2, 4, 8}


def test_a_sample_shows_the_input_where_the_handler_warms_nothing(tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text("[1.0, 2.0, 3.0, 4.0]")

    class Plain(Small):
        warm = False

        def decode(self, request: Any) -> Any:
            return torch.tensor(super().decode(request)).float()

    module = Noting()
    device = FakeDevice("cpu")
    hastened(Plain(module), tmp_path, device, cuda_graphs=True)
    assert {size for size, _ in module.calls} == {1, 2, 4, 8}


def test_without_either_it_is_said_that_the_first_requests_will_be_slow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Small(Noting())
    handler.warm = False
    hastened(handler, tmp_path, FakeDevice(), cuda_graphs=True)
    assert "no warmup and no sample" in caplog.text


def test_a_handlers_own_warmup_runs_as_its_batches_will(tmp_path: Path) -> None:
    """Without gradients: with them other kernels would be warmed, and activations kept."""
    modes: list[bool] = []

    class Looks(Small):
        def warmup(self) -> None:
            modes.append(torch.is_inference_mode_enabled())
            super().warmup()

    handler = Looks(Noting())
    warm(handler, model(tmp_path), None)
    assert modes == [True]


@pytest.mark.parametrize(("device", "calls"), [("cuda:0", [1, 1, 1, 2, 2, 2, 8, 8, 8]), ("cpu", [])])
def test_torchscript_on_a_gpu_has_seen_its_samples_before_requests_come(
    tmp_path: Path, device: str, calls: list[int]
) -> None:
    (tmp_path / "sample.json").write_text("[1.0, 2.0, 3.0, 4.0]")
    seen: list[int] = []

    class Script(Small):
        def decode(self, request: Any) -> Any:
            return torch.tensor(super().decode(request)).float()

        def collate(self, samples: Any) -> Tensor:
            return torch.stack(samples)

        def predict(self, batch: Tensor) -> Any:
            seen.append(len(batch))
            return super().predict(batch)

    handler = Script(script(nn.Linear(4, 2).eval()))
    handler.warm = False
    warm(handler, model(tmp_path), None, device)
    assert seen == calls


# Graphs, on a fake device.


def test_a_replay_gives_what_the_module_gives_for_each_batch_and_shows_no_rows_of_another(tmp_path: Path) -> None:
    module = Noting()
    handler = Small(module)
    device = FakeDevice("cpu")
    hastened(handler, tmp_path, device, cuda_graphs=True)
    assert device.captures == 4
    for rows in (8, 1, 3, 5, 2, 8, 4):
        x = torch.randn(rows, 4)
        with torch.inference_mode():
            assert torch.allclose(handler.predict(x), module(x))
    assert device.captures == 4, "nothing is recorded while requests wait"


def test_an_input_of_another_shape_runs_without_a_graph(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1)

    handler = Small(Sum())
    device = FakeDevice("cpu")
    hastened(handler, tmp_path, device, cuda_graphs=True)
    before = device.captures
    x = torch.randn(3, 9)
    assert torch.equal(handler.predict(x), x.sum(1))
    assert device.captures == before


def test_without_a_gpu_graphs_are_no_error_but_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handler = Small(Noting())
    hastened(handler, tmp_path, cuda_graphs=True)
    assert "cuda_graphs has no effect here" in caplog.text
    assert handler.predict(torch.ones(2, 4)).shape == (2, 2)


# TorchScript that is frozen and optimised.


class Pictures(nn.Module):
    """What freezing folds into one: a convolution, its normalisation and the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        self.layers[1].running_mean.uniform_(-1, 1)
        self.layers[1].running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def script(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        return torch.jit.script(module)


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), ("bfloat16", 0.1)])
def test_an_optimized_module_gives_the_same_and_the_handlers_own_is_left_as_it_was(
    tmp_path: Path, dtype: str | None, tolerance: float, caplog: pytest.LogCaptureFixture
) -> None:
    module = script(Pictures().eval())
    handler = Small(module)
    handler.warm = False
    inputs = [torch.randn(rows, 3, 8, 8) for rows in (1, 3, 8, 2)]
    exact = [module(x) for x in inputs]
    hastened(handler, tmp_path, optimize=True, dtype=dtype)
    for _ in range(3):  # the first calls are those in which TorchScript looks at its input
        for x, y in zip(inputs, exact, strict=True):
            with torch.inference_mode():
                found = handler.predict(x)
            assert found.dtype is torch.float32
            assert torch.allclose(found, y, atol=tolerance)
    assert "batch_norm" in str(module.inlined_graph)
    assert not caplog.records


def test_another_module_cannot_be_optimized_and_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="optimize: Noting is no TorchScript module"):
        accelerate(Small(Noting()), model(tmp_path, optimize=True), Host(), lambda: None)


def test_a_module_in_training_mode_runs_as_it_is_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = script(nn.Sequential(nn.Linear(4, 2), nn.Dropout(1.0)))
    handler = Small(module)
    hastened(handler, tmp_path, optimize=True)
    assert "cannot be optimized and runs as it is" in caplog.text
    assert module.training
    assert torch.equal(handler.predict(torch.ones(1, 4)), torch.zeros(1, 2))


def test_where_only_the_optimized_module_fails_the_models_own_answers_from_then_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = script(nn.Linear(4, 2).eval())
    optimized = Optimized(module, model(tmp_path, optimize=True))
    with pytest.raises(RuntimeError):
        optimized(torch.ones(1, 3))
    assert not caplog.records, "that was the input's fault"

    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("an operation is missing")

    optimized._frozen = fails
    for _ in range(2):
        assert torch.equal(optimized(torch.ones(1, 4)), module(torch.ones(1, 4)))
    assert caplog.text.count("cannot be optimized and runs as it is") == 1


def test_on_a_gpu_optimize_is_no_error_but_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    accelerate(Small(script(nn.Linear(4, 2).eval())), model(tmp_path, optimize=True), FakeDevice(), lambda: None)
    assert "optimize has no effect here" in caplog.text


# Compilation.


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when its compiler is first imported
def test_a_compiled_model_gives_the_same_and_only_a_new_kind_of_input_is_compiled_again(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    told: list[int] = []
    handler = Small(module)
    handler.policy = BatchPolicy(max_size=2)
    hastened(handler, tmp_path, told=lambda: told.append(1), compile="default")
    for rows in (1, 2):
        with torch.inference_mode():  # as the engine makes and runs its batches
            x = torch.randn(rows, 4)
            assert torch.allclose(handler.predict(x), module(x), atol=1e-6)
    assert not told
    with torch.inference_mode():
        handler.predict(torch.randn(2, 3, 4))
    assert told


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when its compiler is first imported
def test_a_model_that_the_compiler_cannot_do_runs_as_it_is_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere")  # the compiler of C++ is asked for when there is code to compile
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 3.25).sin() + 0.125

    handler = Small(Odd())
    handler.policy = BatchPolicy(max_size=2)
    torch._dynamo.reset()
    hastened(handler, tmp_path, compile="default")
    assert "cannot be compiled and runs as it is" in caplog.text
    x = torch.randn(2, 4)
    assert torch.allclose(handler.predict(x), (x * 3.25).sin() + 0.125)


def test_an_error_of_the_model_itself_is_not_taken_for_one_of_the_compiler(tmp_path: Path) -> None:
    from serving.worker.loading.speed.compiled import is_of_the_compiler

    try:
        nn.Linear(4, 2)(torch.ones(1, 3))
    except RuntimeError as exc:
        assert not is_of_the_compiler(exc)
    assert is_of_the_compiler(torch._dynamo.exc.InternalTorchDynamoError("x"))


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when its compiler is first imported
def test_each_size_is_compiled_for_itself_however_many_there_are(tmp_path: Path) -> None:
    torch._dynamo.reset()
    told: list[int] = []
    handler = Small(nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    sizes = tuple(range(1, 11))  # more than the compiler would take by itself
    handler.policy = BatchPolicy(max_size=10)
    before = compilations()
    found = accelerate(handler, model(tmp_path, compile="default", batch_sizes=sizes), Host(), lambda: told.append(1))
    assert found is not None
    found._compiled._compiled = torch.compile(handler.module._module, backend="eager")  # type: ignore[union-attr]
    warm(handler, model(tmp_path), found)
    assert compilations() - before == len(sizes)
    for rows in sizes:
        with torch.inference_mode():
            handler.predict(torch.randn(rows, 4))
    assert not told
    assert compilations() - before == len(sizes)


@needs_compiler
def test_no_process_of_the_compiler_stays_when_all_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile

    monkeypatch.setattr(config, "compile_threads", 2)

    def children() -> set[str]:
        tasks = Path("/proc/self/task").iterdir()
        return {pid for task in tasks for pid in (task / "children").read_text().split()}

    end_compilers()
    before = children()
    AsyncCompile.process_pool()
    assert children() - before
    end_compilers()
    assert not children() - before


# Numbers on a GPU.


@pytest.mark.parametrize(("toml", "wanted"), [("", True), ("tf32 = true\n", True), ("tf32 = false\n", False)])
def test_products_of_float32_are_fast_on_a_gpu_unless_they_must_be_exact(
    tmp_path: Path, toml: str, wanted: bool
) -> None:
    (tmp_path / "serving.toml").write_text(f'handler = "a:B"\n{toml}')
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        set_tf32(read_model(tmp_path, "m", load({}, {}), 2).tf32)
        assert torch.get_float32_matmul_precision() == ("high" if wanted else "highest")
        assert torch.backends.cudnn.allow_tf32 is wanted
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
