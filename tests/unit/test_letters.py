"""Text arrays: code points that are no characters are refused where bytes become an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving import codecs
from serving.errors import BadRequest
from tests.unit.test_hollow import archive, head

BAD = [0x110000, 0x7FFFFFFF, 0xFFFFFFFF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF]
GOOD = [0, 0x41, 0xD7FF, 0xE000, 0xFFFF, 0x1F600, 0x10FFFF]
DESCR: list[Any] = [
    "U2",
    [("a", "|u1"), ("b", "U2")],
    [("a", "|u1"), ("b", [("c", "U1", (2,))])],
]  # fmt: skip


def ordered(descr: Any, order: str) -> Any:
    if isinstance(descr, str):
        return descr.replace("U", f"{order}U")
    made = [ordered(one, order) if isinstance(one, str | list) or is_field(one) else one for one in descr]
    return type(descr)(made)


def is_field(one: Any) -> bool:
    return isinstance(one, tuple) and bool(one) and isinstance(one[0], str)


def body_of(descr: Any, order: str, code: int) -> bytes:
    values = np.array([0x61, code, 0x62, 0x63], f"{order}u4").tobytes()
    if isinstance(descr, list):
        values = b"\x01" + values[:8] + b"\x01" + values[8:]
    return head(ordered(descr, order), (2,)) + values


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("descr", DESCR)
@pytest.mark.parametrize("code", BAD)
def test_what_is_no_character_is_refused(descr: Any, order: str, code: int) -> None:
    body = body_of(descr, order, code)
    for given, kind in ((body, codecs.NPY), (archive(body), codecs.NPZ)):
        for _ in range(2):
            with pytest.raises(BadRequest, match="code point"):
                codecs.decode(given, kind)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("descr", DESCR)
@pytest.mark.parametrize("code", GOOD)
def test_characters_are_read(descr: Any, order: str, code: int) -> None:
    body = body_of(descr, order, code)
    codecs.to_json(codecs.decode(body, codecs.NPY))
    codecs.to_json(codecs.decode(archive(body), codecs.NPZ))


def test_raw_texts() -> None:
    with pytest.raises(BadRequest, match="code point"):
        codecs.decode(np.array([0x41, 0xD800], "<u4").tobytes(), "application/octet-stream; dtype=<U2")
    assert codecs.decode("é".encode("utf-32-le"), "application/octet-stream; dtype=<U1").tolist() == ["é"]


def test_texts_in_fortran_order() -> None:
    text = str({"descr": "<U1", "fortran_order": True, "shape": (2, 2)}).encode().ljust(117) + b"\n"
    start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    assert codecs.decode(start + "abcd".encode("utf-32-le"), codecs.NPY).tolist() == [["a", "c"], ["b", "d"]]
    with pytest.raises(BadRequest, match="code point"):
        codecs.decode(start + np.array([1, 2, 3, 0xD800], "<u4").tobytes(), codecs.NPY)
