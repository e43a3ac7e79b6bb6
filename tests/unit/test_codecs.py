"""Every media type in and out; no bytes make a decoder raise anything but a client's error."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from serving import codecs
from serving.errors import BadRequest, HandlerError, NotAcceptable, UnsupportedMediaType
from serving.http.accept import negotiate
from serving.request import Response

TYPES = [
    "", "application/json", "application/jsonlines", "text/csv", "text/csv; header=present", "application/x-npy",
    "application/x-npz", "image/png", "image/jpeg", "text/plain", "application/octet-stream",
    "application/octet-stream; dtype=float32; shape=2,-1", "application/octet-stream; dtype=nonsense; shape=x",
]  # fmt: skip


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


@given(st.sampled_from(TYPES), st.binary(max_size=300))
def test_any_body_of_any_type_gives_a_value_or_a_clients_error(content_type: str, body: bytes) -> None:
    try:
        codecs.decode(body, content_type)
    except BadRequest as error:
        assert len(error.message) < 500
        assert "Traceback" not in error.message


@pytest.mark.parametrize(
    ("body", "dtype", "shape"),
    [
        ("[1, 2]", np.int64, (2,)),
        ("[1, 2.5]", np.float32, (2,)),
        ("[[1.0], [2.0]]", np.float32, (2, 1)),
        ('{"instances": [[1, 2]]}', np.int64, (1, 2)),
        ('{"inputs": [0.5], "parameters": {"k": 1}}', np.float32, (1,)),
        ("3", np.int64, ()),
        ("[true, false]", np.bool_, (2,)),
        ("[1e38]", np.float32, (1,)),
    ],
)
def test_json_numbers_become_arrays(body: str, dtype: Any, shape: tuple[int, ...]) -> None:
    array = codecs.decode(body.encode(), "application/json; charset=utf-8")
    assert (array.dtype, array.shape) == (dtype, shape)


@pytest.mark.parametrize(
    "value", ["text", {"a": [1]}, [[1], [2, 3]], ["a", 1], [1, "a"], None, [None], [1, 2**70], [2**63, -1]]
)
def test_other_json_stays_what_it_is(value: Any) -> None:
    assert codecs.decode(json.dumps(value).encode(), "application/vnd.thing+json") == value


@pytest.mark.parametrize(
    ("body", "kind"),
    [("[1.5, -1e300]", "application/json"), ("1,-1e300", "text/csv"), ("[-1e300]", "application/jsonlines")],
)
def test_a_number_beyond_float32_is_refused_and_named(body: str, kind: str) -> None:
    with pytest.raises(BadRequest, match="-1e\\+300"):
        codecs.decode(body.encode(), kind)


def test_json_lines_become_one_array_or_a_list() -> None:
    assert codecs.decode(b"[1, 2]\n\n[3, 4]\n", "application/jsonlines").tolist() == [[1, 2], [3, 4]]
    assert codecs.decode(b'{"a": 1}\n{"a": 2}', "application/x-ndjson") == [{"a": 1}, {"a": 2}]


def test_csv_is_numbers_in_rows_and_an_empty_field_is_nan() -> None:
    array = codecs.decode(b"a,b\n1,2.5\n,4\n", "text/csv; header=present")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.array([[1, 2.5], [np.nan, 4]], np.float32))


@pytest.mark.parametrize(("body", "words"), [(b"1,2\n3,x\n", "line 2, column 2"), (b"1\n1,2\n", "differ in length")])
def test_a_bad_csv_is_refused_where_it_is_bad(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        codecs.decode(body, "text/csv")


@given(
    hnp.arrays(st.sampled_from([np.float32, np.int64, np.uint8, np.float16]), hnp.array_shapes(max_dims=3, max_side=4))
)
def test_npy_keeps_type_and_shape_both_ways(array: np.ndarray) -> None:
    response = codecs.encode(array, "application/x-npy")
    back = codecs.decode(response.body, response.content_type)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


def test_npz_is_arrays_by_name_both_ways() -> None:
    response = codecs.encode({"a": torch.ones(2), "b": np.arange(3)}, "application/x-npz")
    back = codecs.decode(response.body, "application/x-npz")
    assert {name: array.tolist() for name, array in back.items()} == {"a": [1.0, 1.0], "b": [0, 1, 2]}


class Evil:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Evil, "ran", True)


def test_a_pickle_is_never_read_in_whatever_dress() -> None:
    objects = npy(np.array([Evil()], dtype=object), allow_pickle=True)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("x.npy", objects)
    for body, kind in [(objects, "npy"), (pickle.dumps(Evil()), "npy"), (zipped.getvalue(), "npz")]:
        with pytest.raises(BadRequest):
            codecs.decode(body, f"application/x-{kind}")
    with pytest.raises(BadRequest):
        codecs.decode(b"\0" * 8, "application/octet-stream; dtype=O")
    assert not Evil.ran


def test_an_npz_bomb_is_refused_by_its_declared_size() -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("x.npy", b"small")
    data = zipped.getvalue().replace((5).to_bytes(4, "little") * 2, b"\5\0\0\0" + (0xFFFFFFFE).to_bytes(4, "little"))
    two = io.BytesIO(data)
    with pytest.raises(BadRequest):
        codecs.decode(two.getvalue(), "application/x-npz")


def test_raw_bytes_stay_bytes_or_become_the_array_that_the_type_describes() -> None:
    body = np.arange(6, dtype=np.float32).tobytes()
    assert codecs.decode(body, "application/octet-stream") is body
    array = codecs.decode(body, "application/octet-stream; dtype=float32; shape=2,-1")
    assert array.shape == (2, 3)
    assert array.base is not None, "not copied"
    with pytest.raises(BadRequest):
        codecs.decode(body, "application/octet-stream; dtype=float32; shape=4,4")


@pytest.mark.parametrize(("mode", "shape"), [("L", (5, 7)), ("RGB", (5, 7, 3)), ("RGBA", (5, 7, 3)), ("P", (5, 7, 3))])
def test_images_are_pixels(mode: str, shape: tuple[int, ...]) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (7, 5)).save(buffer, "PNG")
    array = codecs.decode(buffer.getvalue(), "image/png")
    assert (array.dtype, array.shape) == (np.uint8, shape)


def test_text_must_be_utf8() -> None:
    assert codecs.decode("é".encode(), "text/plain") == "é"
    with pytest.raises(BadRequest):
        codecs.decode(b"\xff", "text/plain")


def test_an_unknown_type_is_unsupported_and_the_known_ones_are_named() -> None:
    with pytest.raises(UnsupportedMediaType, match=r"application/x-foo.*application/json"):
        codecs.decode(b"", "application/x-foo")


OFFERED = ("application/json", "text/csv", "application/x-npy")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV; charset=utf-8", "text/csv"),
        ("application/json;q=0.1, text/csv;q=0.5", "text/csv"),
        ("text/*, application/json;q=0.9", "text/csv"),
        ("*/*;q=0.1, application/x-npy", "application/x-npy"),
        ("application/json;q=0, */*", "text/csv"),
        ("image/png, */*;q=0.01", "application/json"),
        ("garbage", "application/json"),
        ("text/csv;q=high", "application/json"),
        (",,;;", "application/json"),
    ],
)
def test_accept_is_negotiated_to_one_concrete_type(accept: str, expected: str) -> None:
    assert negotiate(accept, OFFERED, "application/json") == expected


@given(st.text(alphabet="ab/*,;=q01. xX", max_size=40))
def test_any_accept_gives_an_offered_type_or_not_acceptable(accept: str) -> None:
    try:
        assert negotiate(accept, OFFERED, "application/json") in OFFERED
    except NotAcceptable as error:
        assert "application/json" in error.message


@pytest.mark.parametrize(
    ("value", "accept", "body", "kind"),
    [
        (torch.tensor([1.0, float("nan")]), "", b"[1.0,null]", "application/json"),
        (torch.tensor([1.5], dtype=torch.bfloat16), "", b"[1.5]", "application/json"),
        (torch.ones(1, requires_grad=True), "", b"[1.0]", "application/json"),
        (np.float32(2.0), "", b"2.0", "application/json"),
        ({"a": np.int64(1), "b": [torch.ones(1)]}, "", b'{"a":1,"b":[[1.0]]}', "application/json"),
        (np.array([[1, 2], [3, 4]]), "text/csv", b"1,2\n3,4\n", "text/csv"),
        (np.array([[1], [2]]), "application/jsonlines", b"[1]\n[2]\n", "application/jsonlines"),
        ([[1], {"a": 2}], "application/jsonlines", b'[1]\n{"a":2}\n', "application/jsonlines"),
        ([], "application/jsonlines", b"", "application/jsonlines"),
        (np.array([1], np.uint8), "application/octet-stream", b"\1", "application/octet-stream"),
        ("hi", "", b"hi", "text/plain"),
        ("hi", "application/json", b'"hi"', "application/json"),
        (b"\0", "", b"\0", "application/octet-stream"),
        (b"\0", "image/png", b"\0", "image/png"),
        (None, "", b"null", "application/json"),
    ],
)
def test_outputs_become_what_accept_asks_for(value: Any, accept: str, body: bytes, kind: str) -> None:
    response = codecs.encode(value, accept)
    assert (bytes(response.body), response.content_type) == (body, kind)


def test_a_response_is_passed_on_as_it_is() -> None:
    response = Response(b"x", "a/b")
    assert codecs.encode(response, "text/csv") is response


def test_what_cannot_be_encoded_is_told_apart() -> None:
    with pytest.raises(HandlerError, match="object has no JSON form"):
        codecs.encode({"a": object()}, "")
    with pytest.raises(NotAcceptable):
        codecs.encode({"a": 1}, "text/csv")
    with pytest.raises(NotAcceptable):
        codecs.encode(np.ones((1, 1, 1)), "text/csv")
