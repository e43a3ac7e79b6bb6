"""A key that a JSON object has twice is an error that names it: which of the two was meant nobody knows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.rows import read_rows
from serving import BadRequest, Request, claims, codecs
from serving.codecs.doubles import keys_in

JSON, LINES = "application/json", "application/jsonlines"
DOUBLES = [
    '{"instances": [[1.0]], "instances": [[2.0]]}',
    '{"a": 1, "b": {"c": 1, "a": 2, "c": 3}}',
    '[{"a": 1, "a": 2}]',
    '[[1, [{"b": [], "a": 1, "a": 2}]], {"c": ": : \\" : "}]',
    '{"a": "http://x:8080/ \\":", "a" : 2}',
    '{"a"\n:1,"a"\t:2}',
    '{"a": 1, "\\u0061": 2}',
    '{"": 1, "": 2}',
    '{"x": "' + ": " * 20_000 + '", "é": 1, "é": 2}',
]
PARTS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text('":{}\\ a\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('":{}\\ a', max_size=3), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("text", DOUBLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-8-sig"])
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_a_double_key_is_named(text: str, encoding: str, form: Any) -> None:
    with pytest.raises(BadRequest, match=r"the body has an object with the key '.*' twice"):
        codecs.decode(form(text.encode(encoding)), JSON)


@pytest.mark.parametrize("text", [one for one in DOUBLES if "\n" not in one])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_double_key_in_lines_is_named_with_its_line(text: str, end: str) -> None:
    body = f'{{"a": 1}}{end}{end}{text}{end}'.encode()
    with pytest.raises(BadRequest, match="line 3 of the body has an object with the key"):
        codecs.decode(body, LINES)
    with pytest.raises(BadRequest, match="line 3 of the body has an object with the key"):
        read_rows(Request(body, LINES), [], "auto")


@given(PARTS, st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : "), (",\n", "\t:\n")]), st.booleans())
def test_what_has_no_double_key_is_read_as_python_reads_it(value: Any, separators: Any, ascii_only: bool) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    assert codecs.parse_json(text.encode()) == json.loads(text)
    assert keys_in(value, 1 << 30) == text_keys(value)


def text_keys(value: Any) -> int:
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return (len(value) if isinstance(value, dict) else 0) + sum(map(text_keys, parts))


@given(st.dictionaries(st.text('":{}\\ a', max_size=3), PARTS, min_size=1, max_size=4), PARTS, st.data())
def test_one_key_more_of_the_same_name_is_found_wherever_it_is(value: dict[str, Any], other: Any, data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(value)))
    inner = json.dumps(value)[:-1] + f", {json.dumps(name)}: {json.dumps(other)}}}"
    for text in (inner, f'[1, {inner}, "a:b"]', f'{{"x": [[{inner}]], "y": 0}}'):
        with pytest.raises(BadRequest, match="twice"):
            codecs.parse_json(text.encode())


def test_the_second_look_claims_what_it_takes_and_gives_it_back() -> None:
    class Holder:
        claim: Any = None

    holder = claims.engine.holder = Holder()
    try:
        codecs.parse_json(json.dumps({"a": ' ":' * 20_000}).encode())
    finally:
        claims.engine.holder = None
    before = holder.claim.size
    claims.release([holder])
    holder = claims.engine.holder = Holder()
    try:
        codecs.parse_json(json.dumps({"a": ' "-' * 20_000}).encode())
    finally:
        claims.engine.holder = None
    assert before - holder.claim.size == 72 * 20_000  # of colons that might be keys'
    claims.release([holder])
