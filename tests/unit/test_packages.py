"""AOTInductor packages: native code, so that they need consent, and what their code does not check is checked."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from handlers.module import ModuleHandler
from serving import Request
from serving.errors import ModelError, ServingError
from serving.testing import Client
from serving.weights.packages import Packaged, load_package

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs g++ on a CPU")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x.sum(1)


def program(dynamic: bool) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("rows", min=1, max=64)},) if dynamic else None
    return torch.export.export(Net().eval(), (torch.ones(2, 3),), dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it imports
        torch._inductor.aoti_compile_and_package(program(dynamic=True), package_path=str(folder / "model.pt2"))
    return folder


def test_one_needs_consent(tmp_path: Path) -> None:
    torch.export.save(program(dynamic=True), tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as archive:
        archive.writestr("model/data/AOTInductor/model/code.wrapper.so", b"what dlopen would run")
    with pytest.raises(ModelError, match=r"compiled code.*allow_pickle"):
        Client(ModuleHandler, tmp_path)


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_is_served_and_an_input_of_another_shape_is_an_error(package: Path) -> None:
    client = Client(ModuleHandler, package, allow_pickle=True)

    def ask(*bodies: object) -> list[object]:
        outcomes = client.batch([Request(json.dumps(body).encode(), "application/json") for body in bodies])
        return [one.code if isinstance(one, ServingError) else json.loads(bytes(one.body)) for one in outcomes]

    assert ask([1.0, 2.0, 3.0]) == [[[6.0], 6.0]]
    assert ask([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [7.0, 8.0, 9.0]) == [[[[6.0], [15.0]], [6.0, 15.0]], [[24.0], 24.0]]
    assert ask([1.0, 2.0, 3.0, 4.0], [1.0, 1.0], [1, 2, 3]) == ["handler_error"] * 3


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_for_another_device_is_refused_and_nothing_is_left_behind(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    loaded = load_package(package / "model.pt2", "cpu", allow_pickle=True)
    assert list(tmp_path.iterdir()) == []
    assert loaded(torch.ones(3, 3))[1].tolist() == [3.0] * 3
    with pytest.raises(ModelError, match="compiled for cpu, but its device is cuda:0"):
        load_package(package / "model.pt2", "cuda:0", allow_pickle=True)


class Code:
    """Stands for compiled code: it takes from ``least`` to ``most`` rows."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most
        self.rows: list[int] = []

    def __call__(self, x: Tensor) -> dict[str, tuple[Tensor, ...]]:
        self.rows.append(len(x))
        if not self.least <= len(x) <= self.most:
            raise RuntimeError("unmatched dim value")
        return {"sum": (x.sum(1),)}


def test_a_single_row_goes_twice_where_the_code_takes_two_and_more() -> None:
    code = Code(2, 8)
    call = Packaged(code)
    for _ in range(2):
        assert call(torch.ones(1, 3))["sum"][0].tolist() == [3.0]
    assert call(torch.ones(4, 3))["sum"][0].tolist() == [3.0] * 4
    assert code.rows == [1, 2, 2, 4], "what it does not take is tried once"


def test_a_single_row_goes_once_where_the_code_takes_one() -> None:
    code = Code(1, 1)
    assert Packaged(code)(torch.ones(1, 3))["sum"][0].tolist() == [3.0]
    assert code.rows == [1]


def test_what_the_code_takes_neither_way_is_an_error_and_decides_nothing() -> None:
    code = Code(3, 8)
    call = Packaged(code)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            call(torch.ones(1, 3))
    assert code.rows == [1, 2, 1, 2]


class Both(NamedTuple):
    left: Any
    right: Any


def test_what_a_program_gives_beside_rows_stays_as_it_is() -> None:
    def call(x: Tensor) -> Any:
        if len(x) < 2:
            raise RuntimeError("unmatched dim value")
        return Both((x.sum(1), None), [{"mean": x.mean(), "names": torch.arange(5), "none": torch.zeros(0)}, 7, "text"])

    for _ in range(2):
        found = Packaged(call)(torch.ones(1, 3))
        assert type(found) is Both
        assert found.left[0].tolist() == [3.0]
        assert found.left[1] is None
        assert found.right[0]["mean"].item() == 1
        assert found.right[0]["names"].tolist() == [0, 1, 2, 3, 4]
        assert found.right[0]["none"].shape == (0,)
        assert found.right[1:] == [7, "text"]
