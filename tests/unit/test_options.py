"""[options] of a model are checked when it loads, each with what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from handlers.options import dtype, need, one_of, whole, within
from serving.errors import ModelError


def test_what_is_allowed_comes_back() -> None:
    assert one_of("kind", "a", "a", "b") == "a"
    assert within("share", 0.5, 0, 1) == 0.5
    assert whole("size", 3, 1, 3) == 3
    assert dtype("bfloat16", "float32", "bfloat16") is torch.bfloat16
    assert need("json", "text").loads("1") == 1


@pytest.mark.parametrize("value", [0, 4, True, 2.5, "2", None])
def test_an_integer_is_one_within_its_bounds(value: Any) -> None:
    with pytest.raises(ModelError, match=r"^\[options\] size is .*; allowed: .*1 to 3$"):
        whole("size", value, 1, 3)


@pytest.mark.parametrize("value", [-0.1, 1.1, False, float("nan"), "1"])
def test_a_number_is_one_within_its_bounds(value: Any) -> None:
    with pytest.raises(ModelError, match=r"^\[options\] share is .*; allowed: 0 to 1$"):
        within("share", value, 0, 1)


def test_a_word_that_is_not_allowed_is_told_which_are() -> None:
    with pytest.raises(ModelError, match=r"^\[options\] dtype is 'int64'; allowed: float32, float16$"):
        dtype("int64", "float32", "float16")


def test_a_missing_package_is_told_with_its_extra() -> None:
    with pytest.raises(ModelError, match=r"needs no_such_package: pip install 'serving\[audio\]'"):
        need("no_such_package", "audio")
