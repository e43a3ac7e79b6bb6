"""Encodings of text: whatever a body is written in, its value is that of its text, or the client is told why not."""

from __future__ import annotations

import codecs as python_codecs
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import codecs
from serving.errors import BadRequest, UnsupportedMediaType

UNICODE = ("utf-8", "utf-16le", "utf-16be", "utf-32le", "utf-32be")
MARKS = {
    "utf-8": python_codecs.BOM_UTF8,
    "utf-16le": python_codecs.BOM_UTF16_LE,
    "utf-16be": python_codecs.BOM_UTF16_BE,
    "utf-32le": python_codecs.BOM_UTF32_LE,
    "utf-32be": python_codecs.BOM_UTF32_BE,
}
NARROW = ("iso-8859-1", "windows-1252", "cp1251", "iso-8859-15", "koi8-r", "shift_jis", "gb18030", "big5", "euc-kr")
VALUES = [
    ("application/json", "[1.5, 2.5]", [1.5, 2.5]),
    ("application/json", '{"a": "é€"}', {"a": "é€"}),
    ("application/json", "3", 3),
    ("application/vnd.x+json", '["é"]', ["é"]),
    ("application/jsonlines", '{"a": "é"}\n{"a": "\u2028"}\n', [{"a": "é"}, {"a": "\u2028"}]),
    ("text/csv", "1,2\n3,4\n", [[1.0, 2.0], [3.0, 4.0]]),
    ("text/plain", "é€ hi", "é€ hi"),
    ("application/x-text", "hi", "hi"),
]


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("name", UNICODE)
@pytest.mark.parametrize(("kind", "text", "value"), VALUES)
def test_a_byte_order_mark_is_no_part_of_the_text(kind: str, text: str, value: Any, name: str) -> None:
    assert plain(codecs.decode(MARKS[name] + text.encode(name), kind)) == value
    assert plain(codecs.decode(bytearray(MARKS[name] + text.encode(name)), kind)) == value


@pytest.mark.parametrize(
    "form", ["{}; charset={}", '{}; charset="{}"', "{};CHARSET={}", "{}; header=absent ; charset={}"]
)
@pytest.mark.parametrize("name", UNICODE)
@pytest.mark.parametrize(("kind", "text", "value"), VALUES)
def test_the_charset_of_the_content_type_is_read(kind: str, text: str, value: Any, name: str, form: str) -> None:
    assert plain(codecs.decode(text.encode(name), form.format(kind, name))) == value
    assert plain(codecs.decode(MARKS[name] + text.encode(name), form.format(kind, name.upper()))) == value


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/jsonlines"])
@pytest.mark.parametrize("name", NARROW)
def test_a_charset_of_one_country_is_read(kind: str, name: str) -> None:
    text = {"shift_jis": "日本", "gb18030": "中文", "big5": "中文", "euc-kr": "한국"}.get(name, "")
    text = text or {"cp1251": "Привет", "koi8-r": "Привет"}.get(name, "café")
    body = text if kind == "text/plain" else json.dumps(text, ensure_ascii=False)
    value = codecs.decode(body.encode(name), f"{kind}; charset={name}")
    assert value == ([text] if kind == "application/jsonlines" else text)


def test_csv_in_a_charset_is_numbers() -> None:
    assert codecs.decode("1,2\n".encode("utf-16"), "text/csv; charset=utf-16").tolist() == [[1, 2]]
    assert codecs.decode(b"\xe9,b\n1,2\n", "text/csv; charset=latin1; header=present").tolist() == [[1, 2]]


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "hex", "zip", "idna", "punycode", "unicode_escape",
                                  "raw_unicode_escape", "utf-7", "undefined", "mbcs", "x" * 500, "../a",
                                  "é"])  # fmt: skip
@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/jsonlines", "text/csv"])
def test_an_unknown_charset_is_named(kind: str, name: str) -> None:
    with pytest.raises(UnsupportedMediaType) as raised:
        codecs.decode(b"[1]", f"{kind}; charset={name}")
    assert name[:30] in raised.value.message
    assert "utf-8" in raised.value.message.lower()
    assert len(raised.value.message) < 400


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/jsonlines", "text/csv"])
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("utf-8", "[1]".encode("utf-16")),
        ("utf-16le", MARKS["utf-16be"] + "[1]".encode("utf-16be")),
        ("utf-16be", MARKS["utf-16le"] + "[1]".encode("utf-16le")),
        ("iso-8859-1", MARKS["utf-8"] + b"[1]"),
        ("windows-1252", MARKS["utf-16le"] + "[1]".encode("utf-16le")),
        ("us-ascii", MARKS["utf-8"] + b"[1]"),
        ("utf-32le", MARKS["utf-8"] + b"[1]"),
    ],
)
def test_a_mark_that_contradicts_the_charset_is_refused(kind: str, name: str, body: bytes) -> None:
    with pytest.raises(BadRequest) as raised:
        codecs.decode(body, f"{kind}; charset={name}")
    assert name in raised.value.message.lower()


@pytest.mark.parametrize("name", ["utf-16", "utf-32"])
def test_utf_16_without_a_mark_has_no_byte_order_that_could_be_known(name: str) -> None:
    with pytest.raises(BadRequest, match=rf"(?i){name}le"):
        codecs.decode("hi".encode(f"{name}be"), f"text/plain; charset={name}")
    assert codecs.decode("hi".encode(name), f"text/plain; charset={name}") == "hi"
    assert codecs.decode(MARKS[f"{name}be"] + "hi".encode(f"{name}be"), f"text/plain; charset={name}") == "hi"


@pytest.mark.parametrize("name", UNICODE[1:])
@pytest.mark.parametrize("body", ["[1, 2]", '{"a": "é"}', "7", '"日本"', "true", " [1]", "\n[1]"])
def test_json_shows_its_own_encoding(name: str, body: str) -> None:
    """Its first two characters are ASCII, so that zeros between them tell (RFC 4627 §3)."""
    assert plain(codecs.decode(body.encode(name), "application/json")) == json.loads(body)


def test_text_that_has_no_such_bytes_is_refused_and_the_charset_named() -> None:
    with pytest.raises(BadRequest, match=r"(?i)utf-8"):
        codecs.decode(b"\xff", "text/plain")
    with pytest.raises(BadRequest, match="ASCII"):
        codecs.decode("é".encode(), "text/plain; charset=us-ascii")
    with pytest.raises(BadRequest, match="UTF-16LE"):
        codecs.decode(b"h\0i", "text/plain; charset=utf-16le")
    with pytest.raises(BadRequest):
        codecs.decode(b'"\xe9"', "application/json")


@given(st.text(), st.sampled_from((*UNICODE, *NARROW, "ascii", "utf-16", "utf-32")), st.booleans())
def test_text_comes_out_as_it_went_in_or_not_at_all(text: str, name: str, marked: bool) -> None:
    try:
        body = text.encode(name)
    except UnicodeEncodeError:
        return
    if marked and name in MARKS:
        body = MARKS[name] + body
    for kind in ("text/plain", "application/x-text"):
        try:
            found = codecs.decode(body, f"{kind}; charset={name}")
        except BadRequest:
            continue
        # A mark at the beginning is no part of the text, also where somebody meant it.
        assert found in (text, text.removeprefix("\ufeff"))


@given(st.text(), st.sampled_from(UNICODE), st.booleans(), st.booleans())
def test_json_comes_out_as_it_went_in(text: str, name: str, marked: bool, told: bool) -> None:
    body = (MARKS[name] if marked else b"") + json.dumps({"a": [text]}, ensure_ascii=False).encode(
        name, "surrogatepass"
    )
    kind = f"application/json; charset={name}" if told else "application/json"
    assert codecs.decode(body, kind) == {"a": [text]}
