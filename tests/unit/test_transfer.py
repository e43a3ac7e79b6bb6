"""Arrays become the batch that torch makes of them, whatever they are; and the bucket says what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

from serving import transfer
from serving.handler import KNOWN, Handler, _names, name_of

CODES = ("?", "u1", "i1", "<i2", "<i4", "<i8", "<u2", ">i4", "<f2", "<f4", "<f8", ">f8", "<c8", "<c16", "U2", "m8[s]")


def by_torch(samples: list[Any]) -> torch.Tensor | None:
    """None where it makes no batch of them."""
    try:
        return torch.stack([torch.as_tensor(np.array(one, order="C")) for one in samples])
    except (TypeError, ValueError, RuntimeError):
        return None


def as_is(array: Any) -> Any:
    return array


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def check(samples: list[Any]) -> None:
    wanted = by_torch(samples)
    if wanted is None:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            Handler().collate(samples)
        return
    found = Handler().collate(samples)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.is_contiguous()
    assert found.numpy().tobytes() == wanted.numpy().tobytes()


MADE = st.sampled_from([as_is, read_only, np.asfortranarray, lambda one: one[::-1] if one.ndim else one])


@given(
    st.sampled_from(CODES).map(np.dtype),
    extra.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    st.lists(MADE, min_size=1, max_size=5),
    st.data(),
)
def test_arrays_of_one_shape(dtype: Any, shape: tuple[int, ...], made: list[Any], data: st.DataObject) -> None:
    check([make(data.draw(extra.arrays(dtype, shape))) for make in made])


@given(
    st.lists(
        st.tuples(st.sampled_from(CODES[:8]), st.sampled_from([(), (2,), (3,), (4,), (2, 2), (0,), (1, 2)])),
        min_size=1,
        max_size=4,
    )
)
def test_arrays_that_differ_are_what_torch_makes_of_them(kinds: list[tuple[str, tuple[int, ...]]]) -> None:
    check([np.ones(shape, code) for code, shape in kinds])


def test_arrays_alike_are_stacked_in_one_call() -> None:
    samples = [np.full((2, 3), n, np.float32) for n in range(4)]
    found = transfer.stack_arrays(samples, "cpu")
    assert found is not None
    assert found.tolist() == [[[float(n)] * 3] * 2 for n in range(4)]


@pytest.mark.parametrize(
    "odd", [np.float32(1), np.ma.masked_array([1.0, 2.0]), np.recarray((2,), "f4"), [1.0], None, "x"]
)
def test_what_only_looks_like_an_array_is_left_to_others(odd: Any) -> None:
    assert transfer.stack_arrays([odd, odd], "cpu") is None
    assert transfer.stack_arrays([np.ones(2), odd], "cpu") is None


@pytest.mark.parametrize(
    "dtype", [*map(np.dtype, CODES), torch.float32, torch.int64, "float32", np.dtype([("a", "<f4")])]
)
def test_the_name_of_a_dtype_is_its_own(dtype: Any) -> None:
    assert [name_of(dtype), name_of(dtype)] == [str(dtype)] * 2


def test_no_more_names_are_remembered_than_there_is_room_for() -> None:
    for n in range(KNOWN + 8):
        assert name_of(np.dtype(f"V{n + 1}")) == f"|V{n + 1}"
        assert len(_names) <= KNOWN
