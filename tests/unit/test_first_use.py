"""TorchScript without code: numbers come as its first layer takes them, and what does not fit is 400 that says why."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from handlers.firstuse import FirstUse, first_use_of
from handlers.module import ModuleHandler
from serving import BadRequest, codecs
from serving.testing import Client

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found.mean((2, 3))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x.flatten(1))
        return found


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table(x)
        return found.mean(1)


class Twice(Flat):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x + 1)
        return found + x.sum(1, keepdim=True)


def script(module: nn.Module) -> Any:
    return torch.jit.script(module.eval())


def traced(module: nn.Module) -> Any:
    example = torch.zeros(1, 4, 2, 2) if isinstance(module, Picture) else torch.zeros(1, 4)
    return torch.jit.trace(module.eval(), example)  # type: ignore[no-untyped-call]


def frozen(module: nn.Module) -> Any:
    return torch.jit.freeze(script(module))


@pytest.mark.parametrize("make", [script, traced, frozen])
@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU()), FirstUse(torch.float32, -1, 4)),
        (lambda: nn.Sequential(nn.Linear(4, 2)).double(), FirstUse(torch.float64, -1, 4)),
        (Picture, FirstUse(torch.float32, 1, 4, 4)),
        (Flat, FirstUse(torch.float32)),
        (Twice, None),
    ],
)
def test_the_first_layer_tells_what_the_input_is(
    make: Callable[[nn.Module], Any], module: Callable[[], nn.Module], wanted: FirstUse | None
) -> None:
    if make is traced and wanted is not None and wanted.dtype is torch.float64:
        pytest.skip("traced with float32")
    buffer = io.BytesIO()
    torch.jit.save(make(module()), buffer)
    buffer.seek(0)
    assert first_use_of(torch.jit.load(buffer)) == wanted  # type: ignore[no-untyped-call]


def test_indices_are_left_as_they_are() -> None:
    assert first_use_of(script(Tokens())) is None
    assert first_use_of(nn.Linear(4, 2)) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.jit.save(script(nn.Sequential(nn.Linear(4, 2))), str(tmp_path / "model.pt"))
    return tmp_path


NUMBERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?", ">i4", ">f8"]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_of_every_type_are_those_that_it_takes(folder: Path, dtype: str) -> None:
    rows = numpy.array([[0, 1, 1, 0], [1, 0, 1, 1]])
    with Client(ModuleHandler(), str(folder)) as client:
        wanted = client.invoke(codecs.to_npy(rows.astype("f4")), "application/x-npy")
        found = client.invoke(codecs.to_npy(rows.astype(dtype)), "application/x-npy")
    assert found.status == 200, found.body
    assert found.body == wanted.body


def test_a_model_of_doubles_gets_the_doubles_that_were_sent(tmp_path: Path) -> None:
    linear = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(linear.weight)
    torch.jit.save(script(nn.Sequential(linear)), str(tmp_path / "model.pt"))
    with Client(ModuleHandler(), str(tmp_path)) as client:
        assert bytes(client.invoke(b"[[0.1], [16777217]]", "application/json").body) == b"[[0.1],[16777217.0]]"


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"[1,2,3,4]", "application/json", 200, ""),
        (b"[[1,2,3,4],[5,6,7,8]]", "application/json", 200, ""),
        (b"[true,false,true,true]", "application/json", 200, ""),
        (b"[1,2,3,4]\n[5,6,7,8]\n", "application/jsonlines", 200, ""),
        (b"1,2,3,4\n5,6,7,8", "text/csv", 200, ""),
        (b"[1,2,3]", "application/json", 400, "expected 4 values a row, got 3"),
        (b"5", "application/json", 400, "expected 4 values a row, got 1"),
        (b"[]", "application/json", 400, "expected 4 values a row, got 0"),
        (codecs.to_npy(numpy.zeros((2, 0))), "application/x-npy", 400, "expected 4 values a row, got 0"),
        (codecs.to_npy(numpy.zeros((2, 4), "c8")), "application/x-npy", 400, "complex"),
        (b"[1e39,2,3,4]", "application/json", 400, "beyond"),
    ],
)
def test_what_does_not_fit_is_the_clients_to_mend(
    folder: Path, body: bytes, kind: str, status: int, words: str
) -> None:
    with Client(ModuleHandler(), str(folder)) as client:
        if status == 200:
            assert client.invoke(body, kind).status == 200
            return
        with pytest.raises(BadRequest, match=words):
            client.invoke(body, kind)
