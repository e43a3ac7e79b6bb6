"""Numbers and booleans of JSON and CSV are never read as others: not as a number, not as one nearby."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from serving import codecs
from serving.errors import BadRequest

JSON, LINES, CSV = "application/json", "application/jsonlines", "text/csv"
FORMS: list[tuple[str, str]] = [
    ("{}", JSON), ('{{"instances": {}}}', JSON), ('{{"true": 1, "inputs": {}}}', JSON), ("{}\n{}", LINES),
]  # fmt: skip
LEAVES = [1, 0, 2.5, True, False]


def decoded(value: Any, form: str, kind: str, charset: str = "utf-8") -> Any:
    return codecs.decode(form.format(*[json.dumps(value)] * 2).encode(charset), kind)


def given(value: Any, kind: str) -> Any:
    return [value, value] if kind == LINES else value


@pytest.mark.parametrize(("form", "kind"), FORMS)
@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_booleans_among_numbers_stay_booleans(form: str, kind: str, charset: str) -> None:
    for values in itertools.product(LEAVES, repeat=2):
        for value in (list(values), [list(values), [1, 2]], [[[values[0]]], [[values[1]]]]):
            found = decoded(value, form, kind, charset)
            leaves = set(map(type, values)) | ({int} if [1, 2] in value else set())
            mixed = bool in leaves and len(leaves) > 1
            assert isinstance(found, list) is mixed
            assert json.dumps(found if mixed else found.tolist()) == json.dumps(given(value, kind)) or (
                leaves == {int, float} and found.tolist() == given(value, kind)
            )


@pytest.mark.parametrize("body", [bytes, bytearray, memoryview])
def test_whatever_holds_the_body(body: Any) -> None:
    assert codecs.decode(body(b"[1, true]"), JSON) == [1, True]
    assert codecs.decode(body(b"[true, false]"), JSON).dtype == bool


def test_values_alone() -> None:
    assert codecs.to_array([True, 0.5]) == [True, 0.5]
    assert codecs.to_array([[1], [True]]) == [[1], [True]]
    assert codecs.decode(b"true", JSON).dtype == bool


EXACT = [2**24 + 1, -(2**24) - 1, 2**31 - 1, 1732788000123, 2**53 - 1, 2**54 + 4, -(2**62) - 2**10]
NARROW = [2**24, -(2**24), 2**24 + 2, 2**53, 2**62, 16777216, 100]
LOST = [2**53 + 1, -(2**53) - 1, 2**62 + 1, 2**63 - 1]


@pytest.mark.parametrize("form", ["[{}, 0.5]", "[0.5, {}]", "[[0.5, 1], [1, {}]]", '{{"instances": [[{}, 1.5]]}}'])
@pytest.mark.parametrize("kind", [JSON, LINES])
def test_integers_among_fractions_keep_their_values(form: str, kind: str) -> None:
    if kind == LINES and "instances" in form:
        return
    for number, dtype in [(one, np.float64) for one in EXACT] + [(one, np.float32) for one in NARROW]:
        found = codecs.decode(form.format(number).encode(), kind)
        assert found.dtype == dtype
        assert number in [int(one) for one in found.ravel()]
    for number in LOST:
        with pytest.raises(BadRequest, match=f"{number} is an integer"):
            codecs.decode(form.format(number).encode(), kind)


def test_fractions_are_rounded_to_floats_of_32_bits() -> None:
    for number in ("0.1", "16777217.0", "16777217.5", "9007199254740993.0", "1e30", "123456789.123"):
        assert codecs.decode(f"[{number}, 1]".encode(), JSON).tolist() == [np.float32(number), 1]
        assert codecs.decode(f"{number},1".encode(), CSV).tolist() == [[np.float32(number), 1]]


def test_integers_of_csv_keep_their_values() -> None:
    for form in ("{}", "0.5,{}", "x,y\n1,2\n,{}", '"{}",1', " {} ,1"):
        kind = f"{CSV}; header=present" if form[0] == "x" else CSV
        for number, dtype in [(one, np.float64) for one in EXACT] + [(one, np.float32) for one in NARROW]:
            found = codecs.decode(form.format(number).encode(), kind)
            assert found.dtype == dtype
            assert number in [int(one) for one in found.ravel() if one == one]
        for number in LOST:
            with pytest.raises(BadRequest, match=f"{number} is an integer"):
                codecs.decode(form.format(number).encode(), kind)


def test_infinities_of_csv_beside_integers() -> None:
    assert codecs.decode(b"inf,1,\n-inf,+16777217,nan", CSV).tolist()[1][1] == 16777217
    assert codecs.decode(b"inf,1,\n-inf,2,nan", CSV).dtype == np.float32
