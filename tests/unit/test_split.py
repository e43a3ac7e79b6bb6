"""What ``predict`` gives is shared out among the requests of its batch: each its own, or an error for all."""

from __future__ import annotations

from collections import deque, namedtuple
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from serving import Handler
from serving.errors import HandlerError

Pair = namedtuple("Pair", "left right")
EACH = {
    "a list": [[1, 2], [3, 4]],
    "a tuple of lists": ([1, 2], [3, 4]),
    "a tuple of numbers": (1, 2),
    "a tuple of texts": ("one", "two"),
    "a tuple of dicts": ({"a": 1}, {"a": 2}),
    "a deque": deque([1, 2]),
    "a range": range(2),
    "values of a dict": {"a": 1, "b": 2}.values(),
    "a generator of another kind": map(str, [1, 2]),
}


@pytest.mark.parametrize("outputs", EACH.values(), ids=EACH)
def test_a_sequence_has_one_output_for_each_request(outputs: Any) -> None:
    expected = ["1", "2"] if isinstance(outputs, map) else list(outputs)
    assert Handler().split(outputs, 2) == expected


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_arrays_have_a_row_for_each_request_however_they_are_gathered(kind: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(plain, value))
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        return value.tolist() if hasattr(value, "tolist") else value

    split = Handler().split
    a, b = kind([[1, 2], [3, 4], [5, 6]]), kind([7, 8, 9])
    assert [plain(one) for one in split(a, 3)] == [[1, 2], [3, 4], [5, 6]]
    assert [plain(one) for one in split((a, b), 3)] == [([1, 2], 7), ([3, 4], 8), ([5, 6], 9)]
    assert [plain(one) for one in split(Pair(b, ["x", "y", "z"]), 3)] == [(7, "x"), (8, "y"), (9, "z")]
    assert [plain(one) for one in split({"a": a, "b": (b, b)}, 3)][1] == {"a": [3, 4], "b": (8, 8)}


NOT_EACH: dict[str, Any] = {
    "nothing": None,
    "a number": 5,
    "a text": "ok",
    "bytes": b"ok",
    "a set": {"a", "b"},
    "an array without a dimension": np.array(5),
    "a tensor without a dimension": torch.tensor(5.0),
    "a number of numpy": np.float32(5),
    "a table": pd.DataFrame({"a": [1, 2], "b": [3, 4]}),
}


@pytest.mark.parametrize("outputs", NOT_EACH.values(), ids=NOT_EACH)
@pytest.mark.parametrize("within", [False, True], ids=["alone", "within a dict"])
def test_what_has_no_outputs_in_order_is_an_error_that_names_predict(outputs: Any, within: bool) -> None:
    class Mine(Handler):
        pass

    with pytest.raises(HandlerError, match=f"Mine.predict gave {type(outputs).__name__} for 2 requests"):
        Mine().split({"a": outputs} if within else outputs, 2)
