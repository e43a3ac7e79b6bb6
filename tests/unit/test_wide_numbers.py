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


LONG = ["g", ">g", "G", ">G", [("a", "i1"), ("b", "g")], np.dtype("i1,f8", align=True), [("x", "g", (2,))]]


@pytest.mark.parametrize("dtype", LONG)
def test_bytes_that_say_nothing_are_zeros_in_an_answer(dtype: Any) -> None:
    ones, twos = np.dtype(dtype).itemsize * 6 * b"\xee", np.dtype(dtype).itemsize * 6 * b"\x00"
    arrays = [np.frombuffer(filler, dtype).copy().reshape(2, 3) for filler in (ones, twos)]
    for array in arrays:
        fill(array)
    for look in (lambda a: a, lambda a: a.T, lambda a: a[:, 1], lambda a: a[0, 0:1].reshape(())):
        dirty, whole = map(look, arrays)
        assert to_raw(dirty) == to_raw(whole)
        assert to_npy(dirty) == to_npy(whole)
        np.testing.assert_array_equal(np.load(io.BytesIO(to_npy(dirty))), dirty)


def fill(array: Any) -> None:
    """Write 3 into every value, and nothing into the bytes between and behind."""
    if array.dtype.names:
        for name in array.dtype.names:
            fill(array[name])
    elif array.dtype.char not in "gG":
        array[...] = 3
    else:
        halves = (array.real, array.imag) if array.dtype.kind == "c" else (array,)
        for half in halves:
            three = np.array(3, array.real.dtype).tobytes()
            said = slice(0, 10) if array.dtype.isnative else slice(6, 16)
            for at in np.ndindex(half.shape):
                raw = bytearray(half[at].astype(half.dtype).tobytes())
                raw[said] = three[said]
                raw[10 if said.start == 0 else 0 : 16 if said.start == 0 else 6] = b"\xee" * 6
                half[at] = np.frombuffer(bytes(raw), half.dtype)[0]
