"""Texts that a toolkit's readers make arrays of take no more memory than is claimed: in numpy's arrays each is as long
as the longest."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving import claims
from serving.adapters.toolkit import sagemaker_containers, sagemaker_inference
from serving.adapters.toolkit.defaults import EstimatorDefaults, as_numbers
from serving.adapters.toolkit.sagemaker_containers import ClientError
from serving.errors import BodyTooLarge

MIB = 1 << 20
LONG = "x" * 20_000
CSV = "\n".join(["1,2"] * 5000 + [f"{LONG},2"])
JSON = json.dumps([["a", "b"]] * 5000 + [[LONG, "b"]])
READS: dict[str, Callable[[], Any]] = {
    "CSV of sagemaker_containers": lambda: sagemaker_containers.csv_to_numpy(CSV),
    "CSV of sagemaker_containers as texts": lambda: sagemaker_containers.csv_to_numpy(CSV, str),
    "CSV of sagemaker_inference": lambda: sagemaker_inference.csv_to_numpy(CSV),
    "JSON of sagemaker_inference": lambda: sagemaker_inference.json_to_numpy(JSON),
    "numbers of CSV": lambda: EstimatorDefaults("cpu", True).of_csv(CSV, 0),
    "numbers of JSON": lambda: as_numbers(json.loads(JSON)),
}


@pytest.mark.parametrize("name", READS)
def test_one_long_text_does_not_make_all_others_as_long(name: str) -> None:
    claims.set_limit(64 * MIB)
    tracemalloc.start()
    try:
        outcome = READS[name]()
    except (BodyTooLarge, ValueError, ClientError) as exc:
        outcome = type(exc).__name__
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        claims.set_limit(claims.UNLIMITED)
    assert peak < 32 * MIB, f"{peak / MIB:.0f} MiB of {len(CSV) / MIB:.2f}"
    assert outcome is None or outcome in ("BodyTooLarge", "ValueError")


@pytest.mark.parametrize("text", ["1,2\n3,4", "1", "1,2", "1\n2", "a,b\nc,dd", "1,a", "1.5,-2e3\nnan,inf", ""])
@pytest.mark.parametrize("dtype", [None, "float32", str])
def test_what_numpy_made_of_them_is_what_there_is(text: str, dtype: Any) -> None:
    rows = np.array(sagemaker_containers.rows_of(text)).squeeze()
    try:
        expected = rows.astype(np.float64 if dtype is None else dtype)
    except ValueError:
        expected = rows if dtype is None else None
    if expected is None:
        with pytest.raises(ClientError):
            sagemaker_containers.csv_to_numpy(text, dtype)
        return
    found = sagemaker_containers.csv_to_numpy(text, dtype)
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype.kind, found.shape) == (expected.dtype.kind, expected.shape)


@pytest.mark.parametrize("text", ["1,2\n3", "1\n2,3"])
def test_rows_of_different_lengths_are_an_error(text: str) -> None:
    with pytest.raises(ClientError, match="different lengths"):
        sagemaker_containers.csv_to_numpy(text)
