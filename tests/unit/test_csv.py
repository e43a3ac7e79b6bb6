"""CSV of numbers: as many rows come out as went in, each number is itself, or the client is told where it is not."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.rows import read_rows
from serving import codecs
from serving.errors import BadRequest
from serving.request import Request
from serving.worker.engine.records import split

NAN = math.nan


def rows(body: str, columns: Any = (), header: str = "auto", content_type: str = "text/csv") -> list[Any]:
    return read_rows(Request(body.encode(), content_type), list(columns), header)[0]


def text(values: list[list[str]], **options: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **options).writerows(values)
    return buffer.getvalue()


@pytest.mark.parametrize("first", ["NA", "-", "n/a", "null", "None", "?", ".", "#N/A", "missing", "x", "a b", "ä"])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_first_record_that_is_no_number_is_never_taken_for_a_header_that_nobody_sent(
    first: str, columns: int
) -> None:
    body = text([[first] * columns, ["6"] * columns, ["7"] * columns])
    with pytest.raises(BadRequest, match="header"):
        rows(body)
    assert len(rows(body, header="absent")) == 3
    assert len(rows(body, content_type="text/csv; header=absent")) == 3
    assert len(rows(body, header="present")) == 2
    assert len(rows(body, content_type="text/csv; header=present")) == 2
    with pytest.raises(BadRequest, match="line 1, column 1"):
        codecs.decode(body.encode(), "text/csv")


def test_the_names_of_the_models_columns_are_a_header() -> None:
    assert rows("b, a\n1,2\n", ["a", "b"]) == [{"b": "1", "a": "2"}]
    assert rows('\ufeff"a","b"\r\n1,2\r\n', ["a", "b"]) == [{"a": "1", "b": "2"}]
    assert rows("1,2\n3,4\n", ["a", "b"]) == [["1", "2"], ["3", "4"]]
    with pytest.raises(BadRequest, match="header"):
        rows("NA,NA\n3,4\n", ["a", "b"])
    with pytest.raises(BadRequest, match="header"):  # it may be either
        rows("0,1\n5,6\n", ["0", "1"])
    assert rows("0,1\n5,6\n", ["0", "1"], content_type="text/csv; header=absent") == [["0", "1"], ["5", "6"]]


def test_a_byte_order_mark_does_not_make_a_header() -> None:
    assert rows("\ufeff5\n6\n") == [["5"], ["6"]]
    assert codecs.decode("\ufeff5\n6\n".encode(), "text/csv").tolist() == [[5], [6]]


@pytest.mark.parametrize("body", ["\n5\n6\n", '""\n5\n6\n', " \n5\n6\n", "\r\n5\r\n6"])
def test_in_one_column_a_blank_line_is_a_record_whose_value_is_missing(body: str) -> None:
    np.testing.assert_array_equal(codecs.decode(body.encode(), "text/csv"), [[NAN], [5], [6]])
    assert len(rows(body)) == 3


def test_blank_lines_elsewhere_are_nothing() -> None:
    assert codecs.decode(b"\n1,2\n\n\n3,4\n\n\n", "text/csv").tolist() == [[1, 2], [3, 4]]
    assert codecs.decode(b"5\n\n", "text/csv").tolist() == [[5]]
    assert rows("1,2\n\n3,4\n\n") == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("lines", [["", "5", ""], ["5", "", "6", ""], ["5", "", "", "6", "", ""], ["x", "", "5", ""]])
def test_where_blank_lines_are_missing_values_those_at_the_end_are_not_guessed(lines: list[str], end: str) -> None:
    body = end.join([*lines, ""]).encode()
    for ask in (lambda: codecs.decode(body, "text/csv"),
                lambda: rows(body.decode(), header="absent"),
                lambda: split(Request(body, "text/csv"))):  # fmt: skip
        with pytest.raises(BadRequest, match=r"line \d of the CSV body is blank|no number"):
            ask()
    said = end.join([*(one or '""' for one in lines), ""]).encode()
    assert len(split(Request(said, "text/csv"))[1]) == len(rows(said.decode(), header="absent")) == len(lines)


@pytest.mark.parametrize("field", ["", " ", "\t", "  ", '" "'])
def test_a_field_of_blanks_is_missing_as_an_empty_one_is(field: str) -> None:
    np.testing.assert_array_equal(codecs.decode(f"1,{field},3\n".encode(), "text/csv"), [[1, NAN, 3]])


@pytest.mark.parametrize("field", ["1_000", "\uff11", "1e400", "-1e999", "0x10", "1;2", "1\t2", "1 2", "$5", "5%",
                                   "1.2.3", "NA", "null", "True", "--1", "1\0"])  # fmt: skip
def test_what_is_no_number_is_named(field: str) -> None:
    with pytest.raises(BadRequest, match="line 2, column 2 of the CSV body"):
        codecs.decode(f"1,2\n3,{field}\n".encode(), "text/csv")


@pytest.mark.parametrize(("field", "value"), [("nan", NAN), ("NaN", NAN), ("inf", math.inf), ("-Infinity", -math.inf),
                                              ('"7"', 7), (" 7 ", 7), ("+7", 7), ("7e2", 700), ("", NAN),
                                              ('""', NAN)])  # fmt: skip
def test_what_is_one_is_read(field: str, value: float) -> None:
    np.testing.assert_array_equal(codecs.decode(f"1,{field}\n".encode(), "text/csv"), [[1, value]])


@pytest.mark.parametrize("body", ['"1"2,3\n', '"1,2\n3,4\n', '1,"2\n', '"1" ,2\n'])
def test_quotes_that_are_wrong_are_no_numbers_glued_together(body: str) -> None:
    with pytest.raises(BadRequest, match="line 1"):
        codecs.decode(body.encode(), "text/csv")
    with pytest.raises(BadRequest, match="line 1"):
        rows(body, header="absent")


def test_lines_are_counted_in_the_file_that_the_client_has() -> None:
    with pytest.raises(BadRequest, match="line 5, column 1"):
        codecs.decode(b'"a\nb",c\n\n1,2\nx,2\n', "text/csv; header=present")
    with pytest.raises(BadRequest, match="line 3 has 3 columns"):
        codecs.decode(b"1,2\n\n1,2,3\n", "text/csv")


@pytest.mark.parametrize("header", ["yes", "maybe", "true"])
def test_an_unknown_word_for_the_header_is_refused(header: str) -> None:
    for ask in (lambda: codecs.decode(b"1\n", f"text/csv; header={header}"),
                lambda: rows("1\n", content_type=f"text/csv; header={header}")):  # fmt: skip
        with pytest.raises(BadRequest, match="header"):
            ask()
    assert codecs.decode(b"a\n1\n", 'text/csv; HEADER="Present"').tolist() == [[1]]


FLOATS = st.floats(width=32, allow_nan=True)


@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(FLOATS, min_size=width, max_size=width), min_size=1)),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"]),
    st.sampled_from(["nan", ""]),
)
def test_numbers_come_out_as_they_went_in(
    values: list[list[float]], end: str, quoting: Any, charset: str, missing: str
) -> None:
    fields = [[missing if math.isnan(one) else repr(one) for one in row] for row in values]
    body = text(fields, lineterminator=end, quoting=quoting)
    found = codecs.decode(body.encode(charset), f"text/csv; charset={charset.removesuffix('-sig')}")
    np.testing.assert_array_equal(found, np.array(values, np.float32))
    np.testing.assert_array_equal([[float(one or "nan") for one in row] for row in rows(body, header="absent")], values)
    back = codecs.encode(found, "text/csv")
    np.testing.assert_array_equal(codecs.decode(back.body, "text/csv"), found)
