"""Numbers that the model has no place for are refused in every type of body, never made infinite or cut."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handlers.module import ModuleHandler
from handlers.tabular import TabularHandler
from serving.adapters.toolkit.defaults import EstimatorDefaults, as_numbers
from serving.adapters.toolkit.sagemaker_inference import DefaultPytorchInferenceHandler
from serving.codecs.arrays import to_npy, to_raw
from serving.errors import BadRequest
from serving.testing import Client

CSV, JSON, LINES, NPY = "text/csv", "application/json", "application/jsonlines", "application/x-npy"


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def scripted(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(Same()), str(folder / "model.pt"))
    return folder


def exported(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    shapes = ({0: torch.export.Dim("rows", min=1, max=64)},)
    program = torch.export.export(Same(), (torch.ones(2, 2, dtype=dtype),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "model.pt2")
    return folder


def npy(values: Any, dtype: str) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, dtype))
    return file.getvalue()


WIDE = {
    "csv": (b"1,1e39\n", CSV),
    "json": (b"[[1, 1e39]]", JSON),
    "json lines": (b"[1, -1e39]\n", LINES),
    "npy": (npy([[1, 1e300]], "f8"), NPY),
    "npy beside infinity": (npy([[np.inf, 1e300]], ">f8"), NPY),
}


@pytest.mark.parametrize("handler", [ModuleHandler, TabularHandler])
@pytest.mark.parametrize("write", [scripted, exported])
@pytest.mark.parametrize("name", WIDE)
def test_numbers_beyond_32_bits_are_400(tmp_path: Path, name: str, write: Any, handler: Any) -> None:
    with pytest.raises(BadRequest, match="beyond the numbers"):
        Client(handler, write(tmp_path)).invoke(*WIDE[name])


@pytest.mark.parametrize("handler", [ModuleHandler, TabularHandler])
@pytest.mark.parametrize("write", [scripted, exported])
def test_infinities_that_were_sent_stay(tmp_path: Path, write: Any, handler: Any) -> None:
    client = Client(handler, write(tmp_path))
    for body, kind in ((b"inf,nan\n", CSV), (npy([[np.inf, np.nan]], "f8"), NPY)):
        found = np.load(io.BytesIO(bytes(client.invoke(body, kind, NPY).body)))
        np.testing.assert_array_equal(found, [[np.inf, np.nan]])


@pytest.mark.parametrize("handler", [ModuleHandler, TabularHandler])
def test_complex_numbers_are_400_for_a_model_of_real_ones(tmp_path: Path, handler: Any) -> None:
    client = Client(handler, exported(tmp_path))
    for dtype in ("c8", "c16"):
        with pytest.raises(BadRequest, match=r"complex numbers|is no number"):
            client.invoke(npy([[1 + 2j, 3]], dtype), NPY)


@pytest.mark.parametrize(
    ("dtype", "values", "kind"),
    [(torch.float16, [[1, 70_000]], "i8"), (torch.float16, [[1, 7e4]], "f4"), (torch.int8, [[1, 300]], "i8"),
     (torch.uint8, [[1, -1]], "i8"), (torch.int64, [[1, 2**63]], "u8")],
)  # fmt: skip
def test_numbers_beyond_a_narrower_type_are_400(tmp_path: Path, dtype: torch.dtype, values: Any, kind: str) -> None:
    client = Client(ModuleHandler, exported(tmp_path, dtype))
    assert json.loads(bytes(client.invoke(b"[[1, 2]]").body)) == [[1, 2]]
    with pytest.raises(BadRequest, match="beyond the numbers"):
        client.invoke(npy(values, kind), NPY)


def test_the_toolkits_default_input_refuses_them_too() -> None:
    handler = DefaultPytorchInferenceHandler()
    for body, kind in (("[1e39]", JSON), ("1.5,1e39", CSV)):
        with pytest.raises(BadRequest, match="beyond the numbers"):
            handler.default_input_fn(body, kind)
    assert handler.default_input_fn("[Infinity, 1]", JSON).tolist() == [np.inf, 1]
    for value in ([1e39], [None, 1e39]):
        with pytest.raises(BadRequest, match="beyond the numbers"):
            as_numbers(value)
    with pytest.raises(BadRequest, match="beyond the numbers"):
        EstimatorDefaults("cpu", False).of_csv("1,1e39", 0)


# Each with where the bytes are that say nothing, within a value.
LONG: list[tuple[Any, list[int]]] = [
    ("<g", [*range(10, 16)]),
    (">g", [*range(6)]),
    ("<G", [*range(10, 16), *range(26, 32)]),
    (">G", [*range(6), *range(16, 22)]),
    ([("a", "i1"), ("b", "<g")], [*range(11, 17)]),
    (np.dtype("i1,f8", align=True), [*range(1, 8)]),
    ([("x", "<g", (2,))], [*range(10, 16), *range(26, 32)]),
]


@pytest.mark.skipif(np.finfo(np.longdouble).nmant != 63, reason="long doubles of x86")
@pytest.mark.parametrize(("dtype", "gaps"), LONG)
def test_bytes_that_say_nothing_are_zeros_in_an_answer(dtype: Any, gaps: list[int]) -> None:
    kind = np.dtype(dtype)
    whole = np.zeros((2, 3), kind)
    soiled = np.frombuffer(whole.tobytes(), np.uint8).reshape(6, kind.itemsize).copy()
    soiled[:, gaps] = 0xEE
    dirty = soiled.view(kind).reshape(2, 3)
    assert dirty.tobytes() != whole.tobytes()
    for look in (lambda a: a, lambda a: a.T, lambda a: a[:, 1], lambda a: a[0, 0:1].reshape(())):
        assert to_raw(look(dirty)) == to_raw(look(whole))
        assert to_npy(look(dirty)) == to_npy(look(whole))


@pytest.mark.parametrize("dtype", ["<g", ">g", "<G", ">G"])
def test_long_doubles_keep_their_values(dtype: str) -> None:
    array = (np.arange(6).reshape(2, 3) / np.longdouble(3)).astype(dtype)
    np.testing.assert_array_equal(np.load(io.BytesIO(to_npy(array))), array)
    np.testing.assert_array_equal(np.frombuffer(to_raw(array), array.dtype.newbyteorder("<")).reshape(2, 3), array)
