"""What handlers give back, of whatever library: as JSON and CSV it says the same, or the error names type and place."""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import json
import math
import pathlib
import subprocess
import sys
import uuid
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving import codecs
from serving.errors import HandlerError, NotAcceptable


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Box:
    corner: Any
    score: float = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: int


class Answer(pydantic.BaseModel):
    label: str
    when: dt.date
    boxes: list[Any] = []
    key: pydantic.SecretStr = pydantic.SecretStr("hidden")


class Loose(pydantic.BaseModel, arbitrary_types_allowed=True):
    values: torch.Tensor


class Rooted(pydantic.RootModel[list[int]]):
    pass


class Struct(msgspec.Struct):
    a: Any


class Listed:
    def tolist(self) -> list[int]:
        return [1, 2]


Point = namedtuple("Point", "x y")
RECORDS = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")])
MASKED = np.ma.array([1, 2, 3], mask=[0, 1, 0])
UTC = dt.UTC
DATES = pd.to_datetime(["2026-01-02", None])
INSTANT = "2026-01-02T03:04:05.000000006+00:00"
FIELDS = {"label": "a", "when": "2026-01-02", "boxes": [], "key": "**********"}

JSON: list[tuple[str, Any, Any]] = [
    ("DataFrame", pd.DataFrame({"l": ["a", "b"], "s": [0.5, None]}), [{"l": "a", "s": 0.5}, {"l": "b", "s": None}]),
    ("DataFrame of ints", pd.DataFrame({1: [1, 2]}), [{"1": 1}, {"1": 2}]),
    ("DataFrame of dates", pd.DataFrame({"t": DATES}), [{"t": "2026-01-02T00:00:00"}, {"t": None}]),
    ("empty DataFrame", pd.DataFrame({"a": []}), []),
    ("Series", pd.Series([1.5, None]), [1.5, None]),
    ("Series of texts", pd.Series(["a", None, "é"]), ["a", None, "é"]),
    ("Series of Int64", pd.Series([1, None], dtype="Int64"), [1, None]),
    ("Series of spans", pd.Series(pd.to_timedelta(["1 days", None])), ["P1D", None]),
    ("Index", pd.Index([3, 4]), [3, 4]),
    ("MultiIndex", pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), [["a", 1], ["b", 2]]),
    ("Categorical", pd.Categorical(["a", "b", None]), ["a", "b", None]),
    ("Timestamp", pd.Timestamp("2026-01-02"), "2026-01-02T00:00:00"),
    ("Timestamp of nanoseconds", pd.Timestamp(INSTANT), INSTANT),
    ("Timedelta", pd.Timedelta(days=1, nanoseconds=5), "P1DT0.000000005S"),
    ("Period", pd.Period("2026-01"), "2026-01"),
    ("Interval", pd.Interval(0, 1), "(0, 1]"),
    ("NA", pd.NA, None),
    ("NaT", pd.NaT, None),
    ("Arrow Table", pa.table({"a": [1, None], "b": ["x", "y"]}), [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]),
    ("Arrow RecordBatch", pa.RecordBatch.from_pydict({"a": [1]}), [{"a": 1}]),
    ("Arrow Array", pa.array([1.5, None]), [1.5, None]),
    ("Arrow ChunkedArray", pa.chunked_array([[1], [2]]), [1, 2]),
    ("Arrow Scalar", pa.scalar(dt.date(2026, 1, 2)), "2026-01-02"),
    ("Arrow decimals", pa.array([decimal.Decimal("1.10")]), ["1.10"]),
    ("Arrow lists", pa.array([[1], [2, 3]]), [[1], [2, 3]]),
    ("numpy float16", np.array([1.5], np.float16), [1.5]),
    ("numpy bool", np.bool_(True), True),
    ("numpy texts", np.array(["a", "é"]), ["a", "é"]),
    ("numpy text", np.str_("a"), "a"),
    ("big-endian", np.array([1, 256], ">i2"), [1, 256]),
    ("Fortran order", np.asfortranarray([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ("strides", np.arange(6)[::-2], [5, 3, 1]),
    ("0-d", np.array(3), 3),
    ("empty", np.zeros((0, 3)), []),
    ("objects", np.array([1, "a", None, pd.NaT], dtype=object), [1, "a", None, None]),
    ("long double", np.longdouble("1.5"), 1.5),
    ("long doubles", np.array([[1.5, "nan"]], np.longdouble), [[1.5, None]]),
    ("masked", MASKED, [1, None, 3]),
    ("masked value", MASKED[1], None),
    ("masked floats", np.ma.masked_invalid([1.0, np.nan]), [1.0, None]),
    ("records", RECORDS, [{"a": 1, "b": 2.5}, {"a": 3, "b": 4.5}]),
    ("record", RECORDS[0], {"a": 1, "b": 2.5}),
    ("recarray", RECORDS.view(np.recarray), [{"a": 1, "b": 2.5}, {"a": 3, "b": 4.5}]),
    ("masked records", np.ma.array(RECORDS, mask=[(0, 1), (0, 0)]), [{"a": 1, "b": None}, {"a": 3, "b": 4.5}]),
    ("record of arrays", np.array([((1, 2),)], dtype=[("a", "i4", (2,))]), [{"a": [1, 2]}]),
    ("datetime64 of days", np.array(["2026-01-02", "NaT"], "M8[D]"), ["2026-01-02", None]),
    ("datetime64 of nanoseconds", np.datetime64("2026-01-02T00:00:00.000000001"), "2026-01-02T00:00:00.000000001"),
    ("timedelta64", np.array([1, "NaT"], "m8[h]"), ["PT3600S", None]),
    ("timedelta64 of nanoseconds", np.timedelta64(-1, "ns"), "-PT0.000000001S"),
    ("timedelta64 of months", np.timedelta64(3, "M"), "P3M"),
    ("bfloat16", torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
    ("float8", torch.tensor([1.5]).to(torch.float8_e4m3fn), [1.5]),
    ("half", torch.tensor([1.5], dtype=torch.float16), [1.5]),
    ("sparse", torch.tensor([0.0, 2.0]).to_sparse(), [0.0, 2.0]),
    ("negative view", torch._neg_view(torch.tensor([1.0])), [-1.0]),
    ("torch bool", torch.tensor([True]), [True]),
    ("parameter", torch.nn.Parameter(torch.ones(1)), [1.0]),
    ("torch.Size", torch.Size([1, 2]), [1, 2]),
    ("dataclass", Box(torch.ones(1)), {"corner": [1.0], "score": 0.5}),
    ("dataclass with slots", Slotted(1), {"a": 1}),
    ("pydantic", Answer(label="a", when=dt.date(2026, 1, 2)), FIELDS),
    ("pydantic with a tensor", Loose(values=torch.ones(2)), {"values": [1.0, 1.0]}),
    ("pydantic root", Rooted([1, 2]), [1, 2]),
    ("msgspec", Struct(np.float32(0.5)), {"a": 0.5}),
    ("namedtuple", Point(1, np.int8(2)), [1, 2]),
    ("set", {3, 1, 2}, [1, 2, 3]),
    ("frozenset", frozenset({"b", "a"}), ["a", "b"]),
    ("deque", deque([1, 2]), [1, 2]),
    ("range", range(3), [0, 1, 2]),
    ("array.array", array.array("d", [1.5]), [1.5]),
    ("keys", {"a": 1}.keys(), ["a"]),
    ("values", {"a": np.int8(1)}.values(), [1]),
    ("items", {"a": 1}.items(), [["a", 1]]),
    ("defaultdict", defaultdict(list, {"a": [1]}), {"a": [1]}),
    ("Counter", Counter("aab"), {"a": 2, "b": 1}),
    ("OrderedDict", OrderedDict(a=1), {"a": 1}),
    ("UserDict", UserDict({"a": {1}}), {"a": [1]}),
    ("ChainMap", ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    ("proxy", MappingProxyType({"a": 1}), {"a": 1}),
    ("Decimal", decimal.Decimal("1.10"), "1.10"),
    ("Fraction", fractions.Fraction(1, 3), "1/3"),
    ("UUID", uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ("Path", pathlib.PurePosixPath("/a/b"), "/a/b"),
    ("Enum", Colour.RED, "red"),
    ("IntEnum", Level.HIGH, 3),
    ("datetime", dt.datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
    ("date", dt.date(2026, 1, 2), "2026-01-02"),
    ("time", dt.time(3, 4), "03:04:00"),
    ("timedelta", dt.timedelta(days=-1, milliseconds=500), "-PT86399.5S"),
    ("bytes", {"a": b"ab"}, {"a": "YWI="}),
    ("int keys", {1: "a", -2: "b"}, {"1": "a", "-2": "b"}),
    ("bool and None keys", {True: 1, None: 2}, {"true": 1, "null": 2}),
    ("float keys", {0.5: 1}, {"0.5": 1}),
    ("Enum keys", {Colour.RED: 1, Level.HIGH: 2}, {"red": 1, "3": 2}),
    ("tuple keys", {("a", 1): 2}, {"('a', 1)": 2}),
    ("numpy keys", {np.int64(1): 2, np.str_("a"): 3}, {"1": 2, "a": 3}),
    ("date keys", {dt.date(2026, 1, 2): 1, pd.Timestamp("2026-01-03"): 2}, {"2026-01-02": 1, "2026-01-03T00:00:00": 2}),
    ("not a number", [math.nan, math.inf, -math.inf, np.float32("nan")], [None] * 4),
    ("big int", 2**100, 2**100),
    ("big ints", {"a": [-(2**70)]}, {"a": [-(2**70)]}),
    ("int of numpy", np.uint64(2**64 - 1), 2**64 - 1),
    ("what has a list", Listed(), [1, 2]),
    ("str of one's own", type("S", (str,), {})("a"), "a"),
    ("int of one's own", type("I", (int,), {})(3), 3),
]  # fmt: skip


@pytest.mark.parametrize(("value", "wanted"), [one[1:] for one in JSON], ids=[one[0] for one in JSON])
def test_whatever_people_return_is_json_that_says_the_same(value: Any, wanted: Any) -> None:
    for wrapped, found in (({"deep": [value]}, {"deep": [wanted]}), ((value, 1), [wanted, 1])):
        response = codecs.encode(wrapped, "application/json")
        assert response.content_type == "application/json"
        assert json.loads(bytes(response.body)) == found
    if not isinstance(value, str):
        assert json.loads(bytes(codecs.encode(value, "").body)) == wanted


class Refuses:
    @property
    def __dict__(self) -> Any:
        raise ValueError


class BrokenList:
    def tolist(self) -> Any:
        raise ValueError("no")


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
BAD: list[tuple[str, Any, str]] = [
    ("object", object(), "object has no JSON form"),
    ("class of one's own", Refuses(), "test_answers.Refuses has no JSON form"),
    ("class itself", Box, "type has no JSON form"),
    ("function", len, "builtin_function_or_method has no JSON form"),
    ("module", math, "module has no JSON form"),
    ("generator", (one for one in [1]), "generator has no JSON form"),
    ("complex", 1j, "complex has no JSON form"),
    ("numpy complex", np.complex64(1j), "complex numbers have no JSON form"),
    ("tensor complex", torch.tensor([1j]), "complex numbers have no JSON form"),
    ("long double beyond", np.longdouble("1e400"), "long double is beyond 64 bits"),
    ("device", torch.device("cpu"), "torch.device has no JSON form"),
    ("dtype", np.dtype("f4"), "has no JSON form"),
    ("address", ipaddress.ip_address("::1"), "ipaddress.IPv6Address has no JSON form"),
    ("lone surrogate", "a\ud800", "half a surrogate pair"),
    ("lone surrogate of a key", {"\ud800": 1}, "half a surrogate pair"),
    ("keys that are the same as text", {1: "a", "1": "b"}, "two keys are both written '1'"),
    ("keys of two kinds", {None: 1, "null": 2}, "two keys are both written 'null'"),
    ("key that is an object", {object(): 1}, "object has no JSON form"),
    ("key that is a set", {frozenset([1]): 1}, "a key is frozenset"),
    ("columns of one name", pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns 'a'"),
    ("columns of Arrow of one name", pa.table([[1], [2]], names=["a", "a"]), "two columns 'a'"),
    ("cycle", CYCLE, "nested"),
    ("fails by itself", BrokenList(), "test_answers.BrokenList, at .* failed with ValueError"),
]


@pytest.mark.parametrize(("value", "words"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
def test_what_has_no_json_form_is_named_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(HandlerError, match=words) as raised:
        codecs.encode({"predictions": [0, {"a b": value}]}, "application/json")
    assert ".predictions[1]['a b']" in raised.value.message or "columns" in words or "nested" in words
    assert len(raised.value.message) < 500


CSV: list[tuple[str, Any, str]] = [
    ("DataFrame", pd.DataFrame({"l": ["a,b", None], "s": [0.5, None]}), '"a,b",0.5\n,\n'),
    ("Series", pd.Series([1, 2]), "1\n2\n"),
    ("dates", pd.DataFrame({"t": DATES}), '2026-01-02T00:00:00\n""\n'),
    ("Arrow", pa.table({"a": [1, None], "b": ["x", "y"]}), "1,x\n,y\n"),
    ("Arrow Array", pa.array([1, 2]), "1\n2\n"),
    ("texts of numpy", np.array([["a", 'b"c']]), 'a,"b""c"\n'),
    ("masked", np.ma.array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]]), "1,\n3,4\n"),
    ("records", RECORDS, "1,2.5\n3,4.5\n"),
    ("numbers", np.array([[1.5, 2], [3, 4]]), "1.5,2.0\n3.0,4.0\n"),
    ("list", [1, 2.5, "a"], "1,2.5,a\n"),
    ("list of lists", [[1, "a"], (2, None)], "1,a\n2,\n"),
    ("list of tensors", [torch.tensor([1.5, 2.0]), torch.tensor([3.0, 4.0])], "1.5,2.0\n3.0,4.0\n"),
    ("list of scalars", [np.float32(1.5), torch.tensor(2)], "1.5,2\n"),
    ("datetime64", np.array([["2026-01-02"]], "M8[D]"), "2026-01-02\n"),
    ("one tensor", torch.tensor([1.5, 2.0]), "1.5,2.0\n"),
    ("long double", np.array([[1.5]], np.longdouble), "1.5\n"),
]


@pytest.mark.parametrize(("value", "wanted"), [one[1:] for one in CSV], ids=[one[0] for one in CSV])
def test_tables_and_rows_are_csv(value: Any, wanted: str) -> None:
    response = codecs.encode(value, "text/csv")
    assert (bytes(response.body).decode(), response.content_type) == (wanted, "text/csv")


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}], [[[1]]], np.zeros((1, 1, 1)), Box(1), None])
def test_what_is_no_table_is_not_acceptable_as_csv(value: Any) -> None:
    with pytest.raises(NotAcceptable):
        codecs.encode(value, "text/csv")


def test_a_field_that_is_no_single_value_is_named() -> None:
    with pytest.raises(HandlerError, match=r"\[1\]\[0\] is list"):
        codecs.encode(pd.DataFrame({"a": [1, [2]]}, dtype=object), "text/csv")


@pytest.mark.parametrize("kind", codecs.JSON_LINES)
def test_tables_lists_and_arrays_are_lines(kind: str) -> None:
    for value in (pd.DataFrame({"a": [1, 2]}), [{"a": 1}, {"a": 2}], pa.table({"a": [1, 2]})):
        response = codecs.encode(value, kind)
        assert [json.loads(line) for line in bytes(response.body).splitlines()] == [{"a": 1}, {"a": 2}]
        assert response.content_type == kind
    assert bytes(codecs.encode(np.array([1, 2]), kind).body) == b"1\n2\n"


@pytest.mark.parametrize("kind", ["application/x-npy", "application/octet-stream", "application/x-npz"])
@pytest.mark.parametrize("value", [np.array([{}], dtype=object), MASKED, np.array([(None,)], dtype=[("a", "O")])])
def test_what_npy_cannot_say_is_an_error_and_no_pickle_and_no_address(kind: str, value: Any) -> None:
    with pytest.raises(HandlerError, match=r"objects|masked"):
        codecs.encode({"a": value} if kind.endswith("npz") else value, kind)


def test_names_of_an_npz_are_kept_whatever_they_are() -> None:
    arrays = {"file": np.ones(1), "a/b": np.zeros(1), "é": np.ones(2), "allow_pickle": np.ones(3)}
    back = codecs.decode(codecs.encode(arrays, "application/x-npz").body, "application/x-npz")
    assert {name: one.tolist() for name, one in back.items()} == {name: one.tolist() for name, one in arrays.items()}
    with pytest.raises(HandlerError, match="same name"):
        codecs.encode({1: np.ones(1), "1": np.ones(1)}, "application/x-npz")


def test_raw_bytes_are_little_endian_and_in_c_order() -> None:
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    body = codecs.encode(array, "application/octet-stream").body
    np.testing.assert_array_equal(codecs.decode(body, "application/octet-stream; dtype=<f4; shape=2,3"), array)


@pytest.mark.parametrize(
    ("value", "accept", "kind"),
    [
        ("hi", "", "text/plain"),
        ("hé", "", "text/plain; charset=utf-8"),
        (b"\x93NUMPY", "application/x-npy", "application/x-npy"),
        (b"[1]", "application/x-npy", "application/octet-stream"),
        (b"[1]", "application/x-npz", "application/octet-stream"),
        (b"[1]", "application/json", "application/json"),
    ],
)
def test_the_type_that_an_answer_claims_is_the_type_it_has(value: Any, accept: str, kind: str) -> None:
    assert codecs.encode(value, accept).content_type == kind


def test_text_that_has_no_bytes_is_an_error() -> None:
    with pytest.raises(HandlerError):
        codecs.encode("\ud800", "")
    with pytest.raises(HandlerError):
        codecs.encode("\ud800", "application/json")


def test_nothing_is_imported_that_user_code_has_not_imported() -> None:
    code = (
        "import sys, decimal; from serving import codecs; codecs.encode({'a': [decimal.Decimal(1), {1: 2}]}, '');"
        "print([name for name in ('pandas', 'pyarrow', 'pydantic', 'torch', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
TREES = st.recursive(
    LEAVES, lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(max_size=5), of, max_size=4), max_leaves=20
)


@given(TREES)
def test_json_values_come_out_as_they_went_in(value: Any) -> None:
    assert json.loads(bytes(codecs.to_json(value))) == value
    assert json.loads(bytes(codecs.to_json(codecs.to_plain(value)))) == value


NUMBERS = st.sampled_from(["?", "i1", "u2", "<i4", ">i4", "i8", "u8", ">u8", "f2", "<f4", ">f4", "f8", "g"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@given(NUMBERS.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)), st.booleans(), st.data())
def test_arrays_come_out_as_they_went_in_of_every_type(array: np.ndarray, fortran: bool, data: st.DataObject) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    kind = data.draw(st.sampled_from(["application/json", "text/csv", "application/x-npy", "application/octet-stream"]))
    try:
        response = codecs.encode(array, kind)
    except (HandlerError, NotAcceptable):
        assert array.ndim > 2 or array.dtype.char == "g"
        return
    body = bytes(response.body)
    if kind == "application/json":
        back = np.array(json.loads(body), dtype=object).astype(float)
        wanted = np.where(np.isfinite(array), array, np.nan).astype(float)
        assert back.size == wanted.size
        np.testing.assert_array_equal(back.ravel(), wanted.ravel())
    elif kind == "text/csv":
        rows = [[float(one) if one not in ("True", "False") else one == "True" for one in line.split(",") if one]
                for line in body.decode().splitlines()]  # fmt: skip
        np.testing.assert_array_equal(np.array(rows, float).ravel(), array.astype(float).ravel())
    else:
        raw = f"{kind}; dtype={array.dtype.newbyteorder('<').str}; shape={','.join(map(str, array.shape))}"
        if kind.endswith("stream") and not array.ndim:
            return
        back = codecs.decode(body, raw if kind.endswith("stream") else kind)
        assert (back.shape, back.dtype) == (array.shape, array.dtype.newbyteorder("="))
        np.testing.assert_array_equal(back, array)


@given(st.lists(st.lists(st.text(min_size=1) | st.integers(), min_size=2, max_size=2), min_size=1))
def test_rows_of_texts_come_out_of_csv_as_they_went_in(rows: list[list[Any]]) -> None:
    body = bytes(codecs.encode(rows, "text/csv").body).decode()
    assert [row for _, _, row in codecs.split_rows(body)] == [[str(one) for one in row] for row in rows]
