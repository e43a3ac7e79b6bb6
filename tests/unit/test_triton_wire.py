"""Tensors on the wire: what is read, what is refused, what is written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import triton_python_backend_utils as pb_utils
from serving.http.open_inference import is_open_inference, model_path, repository_path
from triton_python_backend_utils import wire
from triton_python_backend_utils.wire import TensorEntry, WireError

KINDS = [kind for name, kind in pb_utils.dtypes.NUMPY_TYPES.items() if name not in ("BYTES", "BF16")]


def json_tensor(datatype: str, shape: list[int], data: Any) -> Any:
    [tensor] = wire.read_tensors([TensorEntry("T", shape, datatype, {}, data)], memoryview(b""))
    return tensor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("binary", [True, False])
def test_every_number_comes_back_as_it_was(kind: Any, binary: bool) -> None:
    array = np.array([[0, 1, 1]]).astype(kind)
    entries, chunks = wire.write_tensors([pb_utils.Tensor("T", array)], lambda _: binary)
    body, size = wire.message({"inputs": entries}, chunks)
    head, rest = wire.split(body, size)
    [back] = wire.read_tensors(wire.read_infer(head).inputs, rest)
    assert back.as_numpy().dtype == array.dtype
    np.testing.assert_array_equal(back.as_numpy(), array)
    back.as_numpy()[0] = 1  # models may write into what they get


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_bf16_in_json_is_rounded_as_torch_does(values: list[float]) -> None:
    tensor = json_tensor("BF16", [len(values)], values)
    assert torch.equal(
        torch.utils.dlpack.from_dlpack(tensor.to_dlpack()),
        torch.tensor(values, dtype=torch.float32).to(torch.bfloat16),
    )


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_strings_of_any_bytes_come_back_as_they_were(values: list[bytes]) -> None:
    array = np.empty(len(values), np.object_)
    array[:] = values
    entries, chunks = wire.write_tensors([pb_utils.Tensor("T", array)], lambda _: True)
    entry = TensorEntry("T", [len(values)], "BYTES", entries[0]["parameters"])
    assert wire.read_tensors([entry], memoryview(b"".join(chunks)))[0].as_numpy().tolist() == values


def test_data_may_be_nested_flat_or_empty() -> None:
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]):
        assert json_tensor("INT32", [2, 2], data).as_numpy().tolist() == [[1, 2], [3, 4]]
    assert json_tensor("FP32", [0, 3], []).shape() == [0, 3]
    assert json_tensor("INT64", [], [5]).as_numpy().item() == 5
    assert json_tensor("UINT64", [2], [0, 2**64 - 1]).as_numpy().tolist() == [0, 2**64 - 1]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT8", [256]),
        ("INT8", [-129]),
        ("INT32", [1.5]),
        ("INT32", [True]),
        ("BOOL", [1]),
        ("FP32", ["1"]),
        ("FP32", [None]),
        ("FP64", [10**400]),
        ("FP32", [1e39]),
        ("FP16", [65520]),
        ("BF16", [1e39]),
        ("BYTES", [1]),
        ("INT32", [[1], 2]),
        ("INT32", [1, 2]),
        ("INT32", None),
        ("INT32", {"a": 1}),
        ("TYPE_INT32", [1]),
    ],
)
def test_nothing_is_wrapped_or_guessed(datatype: str, data: Any) -> None:
    with pytest.raises(WireError, match="'T'"):
        json_tensor(datatype, [1], data)


@pytest.mark.parametrize(
    ("entry", "data", "words"),
    [
        (TensorEntry("T", [2], "INT32", {"binary_data_size": 4}), b"1234", "takes 8"),
        (TensorEntry("T", [1], "INT32", {"binary_data_size": 4}), b"12", "2 are left"),
        (TensorEntry("T", [1], "INT32", {"binary_data_size": 4}), b"12345", "belong to no tensor"),
        (TensorEntry("T", [1], "INT32", {"binary_data_size": -4}), b"", "-4"),
        (TensorEntry("T", [1], "INT32", {"binary_data_size": 4}, [1]), b"1234", "without data"),
        (TensorEntry("T", [-1], "INT32", {}, [1]), b"", "shape"),
        (TensorEntry("T", [1] * 40, "INT32", {}, [1]), b"", "at most 32"),
        (TensorEntry("T", [1 << 40, 1 << 40], "INT32", {"binary_data_size": 0}), b"", "takes"),
        (TensorEntry("T", [0, 1 << 61], "INT32", {"binary_data_size": 0}), b"", "without a value"),
        (TensorEntry("T", [0, 1 << 61], "INT32", {}, []), b"", "without a value"),
        (TensorEntry("T", [1], "INT32", {"binary_data_size": True}), b"1", "True"),
        (
            TensorEntry("T", [1], "INT32", {"shared_memory_region": "r"}),
            b"",
            "shared memory",
        ),
        (TensorEntry("T", [1], "INT32", {"own": 1}, [1]), b"", "'own' is not supported"),
        (TensorEntry("T", [2], "BYTES", {"binary_data_size": 5}), b"\x01\x00\x00\x00a", "1 strings"),
        (TensorEntry("T", [1], "BYTES", {"binary_data_size": 5}), b"\xff\xff\xff\xffa", "cut off"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(entry: TensorEntry, data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        wire.read_tensors([entry], memoryview(data))


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 300)))
def test_any_bytes_give_tensors_or_a_wire_error(body: bytes, size: int | None) -> None:
    try:
        head, rest = wire.split(body, size)
        wire.read_tensors(wire.read_infer(head).inputs, rest)
    except WireError:
        pass


def test_json_that_is_nested_too_deeply_is_told() -> None:
    deep = b'{"inputs":[{"name":"T","shape":[1],"datatype":"INT32","data":' + 100_000 * b"["
    with pytest.raises(WireError, match="too deeply"):
        wire.read_infer(memoryview(deep))


def test_bytes_that_json_cannot_hold_are_told() -> None:
    tensor = pb_utils.Tensor("T", np.array([b"\xff"], np.object_))
    with pytest.raises(WireError, match="binary_data"):
        wire.write_tensors([tensor], lambda _: False)


def test_what_is_no_number_is_null_in_json() -> None:
    entries, chunks = wire.write_tensors([pb_utils.Tensor("T", np.array([math.nan, 1.0]))], lambda _: False)
    assert wire.message({"outputs": entries}, chunks)[0].endswith(b'"data":[null,1.0]}]}')


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/a", ("a", "", "")),
        ("/v2/models/a/ready", ("a", "", "ready")),
        ("/v2/models/a/versions/3/infer", ("a", "3", "infer")),
        ("/v2/models/team/a/versions/3", ("team/a", "3", "")),
        ("/v2/models/team/a/config", ("team/a", "", "config")),
        ("/v2/models", None),
        ("/v2/models/", None),
        ("/v2/repository/index", None),
    ],
)
def test_paths_of_models(path: str, expected: Any) -> None:
    assert model_path(path) == expected


def test_other_paths() -> None:
    assert repository_path("/v2/repository/models/team/a/load") == ("team/a", "", "load")
    assert repository_path("/v2/repository/models/a") is None
    assert [is_open_inference(path) for path in ("/v2", "/v2/", "/v2/x", "/v2x", "/v1")] == [True] * 3 + [False] * 2
