"""Forms are read as they were written, and whatever else a client sends is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.adapters.torchserve.forms import Field, multipart
from serving.codecs.forms import HEADER, HEADERS, FormPart, boundary_of, parts_of
from serving.errors import BadRequest

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters='"\r\n%\\', exclude_categories=["Cc", "Cs"]), max_size=9
)
KINDS = st.sampled_from(["", "image/png", "text/plain; charset=utf-8", "Image/PNG;a=b"])
CHUNKS = [b"\r\n", b"--", b"\r\n--", b"\r", b"\n", b"x", b"\r\n\r\n", b"\x00\xff", b"Content-Type: a/b"]
VALUES = st.lists(st.sampled_from(CHUNKS), max_size=9).map(b"".join)
PARTS = st.lists(st.builds(FormPart, NAMES, st.none() | NAMES, KINDS, VALUES), max_size=5)
BOUNDARY = "a-b.c d"
KIND = f'multipart/form-data; boundary="{BOUNDARY}"'


def written(parts: list[FormPart]) -> bytes:
    lines = []
    for part in parts:
        file = "" if part.filename is None else f'; filename="{part.filename}"'
        kind = f"content-type: {part.content_type}\r\n" if part.content_type else ""
        head = f'--{BOUNDARY}\r\nX-Other: 1\r\nContent-Disposition: form-data; name="{part.name}"{file}\r\n{kind}\r\n'
        lines += [head.encode(), part.value, b"\r\n"]
    return b"".join([*lines, f"--{BOUNDARY}--".encode()])


@given(PARTS, st.sampled_from([b"", b"\r\n", b"\r\nepilogue"]), st.sampled_from([b"", b"\r\n", b"preamble\r\n"]))
def test_what_is_written_is_read(parts: list[FormPart], after: bytes, before: bytes) -> None:
    assert parts_of(before + written(parts) + after, KIND) == parts


@given(
    PARTS, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), st.binary(max_size=4)), min_size=1, max_size=3)
)
def test_what_is_damaged_is_read_or_refused(parts: list[FormPart], damages: list[tuple[int, int, bytes]]) -> None:
    body = written(parts)
    for start, size, new in damages:
        body = body[:start] + new + body[start + size :]
    try:
        found = parts_of(body, KIND)
    except BadRequest as error:
        assert error.message
    else:
        assert sum(len(part.value) for part in found) <= len(body)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=x", b"x"),
        ("multipart/form-data;charset=utf-8;Boundary=----=_Part_1/2:3", b"----=_Part_1/2:3"),
        ('multipart/form-data; boundary = "a b;c"; charset=utf-8', b"a b;c"),
        ('multipart/form-data; boundary=""', b""),
        ("multipart/form-data", b""),
    ],
)
def test_the_boundary_is_read_with_quotes_and_without(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


def part(head: str, value: str = "1") -> bytes:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n{value}\r\n--{BOUNDARY}--".encode("latin-1")


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ('Content-Disposition: form-data; name="a;b"', FormPart("a;b", None, "", b"1")),
        ("Content-Disposition: form-data; name=a; filename=b", FormPart("a", "b", "", b"1")),
        ('Content-Disposition: form-data; name="%22"', FormPart('"', None, "", b"1")),
        ('Content-Disposition: form-data; name="\xe9"', FormPart("\ufffd", None, "", b"1")),
        ('Content-Disposition: attachment; name="a"', FormPart("a", None, "", b"1")),
        ("Content-Type: image/png ", FormPart(None, None, "image/png", b"1")),
    ],
)
def test_the_head_of_a_part_is_read_as_clients_write_it(head: str, found: FormPart) -> None:
    assert parts_of(memoryview(part(head)), KIND) == [found]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (part('Content-Disposition: form-data; name="a"')[:-2], "does not end with its boundary"),
        (part("no colon"), "malformed"),
        (part("A: " + HEADER * "b"), f"one of over {HEADER} bytes"),
        (part("\r\n".join((HEADERS + 1) * ["A: b"])), f"over {HEADERS} headers"),
        (b"hello", "does not end"),
        (b"hello, world", "malformed"),
        (b"", "does not end"),
    ],
)
def test_a_form_that_is_none_is_refused_with_a_reason(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        parts_of(body, KIND)


def test_a_field_of_torchserve_has_a_type_if_it_is_a_file_and_always_a_name() -> None:
    parts = [
        FormPart("a", None, "text/plain", b"1"),
        FormPart("b", "", "", b"2"),
        FormPart("c", "f", "image/png; q=1", b"3"),
    ]
    fields = [Field("a", b"1"), Field("b", b"2", "application/octet-stream"), Field("c", b"3", "image/png")]
    assert multipart(written(parts), KIND) == fields
    with pytest.raises(BadRequest, match="no name"):
        multipart(part("A: b"), KIND)
