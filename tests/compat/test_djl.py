"""DJL Serving's own ``Input`` and ``Output`` beside those of this server, which scripts get here: the same to the byte.

``make compat DJL_SERVING=folder`` names a checkout of deepjavalibrary/djl-serving; without it these are skipped.
"""

from __future__ import annotations

import datetime
import importlib
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.adapters.djl import ndlist
from serving.adapters.djl.inputs import Input
from serving.adapters.djl.outputs import FormattedChunks, Output
from serving.adapters.djl.pairs import PairList

PACKAGES = Path(os.environ.get("DJL_SERVING") or "/nowhere") / "engines" / "python" / "setup"

pytestmark = pytest.mark.skipif(
    not (PACKAGES / "djl_python").is_dir(), reason="DJL_SERVING names no checkout of deepjavalibrary/djl-serving"
)


@pytest.fixture(scope="module")
def theirs() -> Iterator[Any]:
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "djl_python"}
    sys.path.insert(0, str(PACKAGES))
    yield importlib.import_module("djl_python")
    sys.path.remove(str(PACKAGES))
    for name in [name for name in sys.modules if name.partition(".")[0] == "djl_python"]:
        del sys.modules[name]
    sys.modules.update(before)


class Sent:
    """What their Output sends to the server, read as the server reads it: its head, and its parts or pieces."""

    def __init__(self, output: Any) -> None:
        self._data = bytearray()
        output.send(self)
        code, message = self._number("h"), self._text()
        properties = {self._text(): self._text() for _ in range(self._number("h"))}
        count = self._number("h")
        self.head = (code, message, properties)
        self.parts = [(self._text(), self._take(self._number("i"))) for _ in range(max(0, count))]
        self.pieces = list(iter(self._piece, None)) if count < 0 else None
        assert not self._data

    def sendall(self, data: bytes) -> None:
        self._data += data

    def _take(self, size: int) -> bytes:
        taken, self._data = bytes(self._data[:size]), self._data[size:]
        assert len(taken) == size
        return taken

    def _number(self, form: str) -> int:
        [value] = struct.unpack(f">{form}", self._take(struct.calcsize(f">{form}")))
        return int(value)

    def _text(self) -> str | None:
        size = self._number("i")
        return None if size < 0 else self._take(size).decode()

    def _piece(self) -> bytes | None:
        more = self._take(1)
        piece = self._take(self._number("i"))
        assert more == b"\1" or not piece, piece
        return piece if more == b"\1" else None


def ours(output: Output) -> tuple[Any, ...]:
    head = (output.code, output.message, {key: str(value) for key, value in output.properties.items()})
    parts = [(key, bytes(value)) for key, value in zip(output.content.keys, output.content.values, strict=True)]
    return (head, [], list(FormattedChunks(output))) if output.stream_content is not None else (head, parts, None)


OUTPUTS: list[Callable[[Any], Any]] = [
    lambda kind: kind(),
    lambda kind: kind(404, "none"),
    lambda kind: kind().set_code(201).set_message("made").add_property("A", 1).add_property("B", "x"),
    lambda kind: kind().error("no luck"),
    lambda kind: kind().error("no luck", code=500, message="m").add("more"),
    lambda kind: kind().add("ä").add(b"x", "k").add(bytearray(b"y"), key="k"),
    lambda kind: kind().add([1, {"a": None}], "data", 0).add(3, batch_index=11),
    lambda kind: kind().add("x", 7),
    lambda kind: kind().add(None).add(False).add(1.5).add(()),
    lambda kind: kind().add_as_json({"t": datetime.datetime(2020, 1, 2), "n": np.float64(1.5), "i": np.int8(-1)}),
    lambda kind: kind().add_as_json(np.arange(6, dtype=np.float32).reshape(2, 3), "a", 1),
    lambda kind: kind().add_as_numpy([np.arange(3), np.float16([[1.5]]), np.zeros((0, 2))]),
    lambda kind: kind().add_as_numpy(np.array(True)),
    lambda kind: kind().add_stream_content(iter(["a", "ä", "", 1, None, {"x": [1]}])),
    lambda kind: kind().add_stream_content(iter(["a", b"b", bytearray(b"c"), {"x": 1}, [1], 2.5]), None),
    lambda kind: kind().add_stream_content(iter([1, 2]), output_formatter=lambda one: {"n": one}),
    lambda kind: kind().add_stream_content(iter(())),
]


@pytest.mark.parametrize("make", OUTPUTS)
def test_outputs(theirs: Any, make: Callable[[Any], Any]) -> None:
    sent = Sent(make(theirs.Output))
    assert ours(make(Output)) == (sent.head, sent.parts, sent.pieces)
    assert str(make(Output)) == str(make(theirs.Output))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_json(theirs: Any, value: Any) -> None:
    sent = Sent(theirs.Output().add(value).add_as_json(value, "k"))
    assert ours(Output().add(value).add_as_json(value, "k"))[1] == sent.parts
    sent = Sent(theirs.Output().add_stream_content(iter([value, value])))
    assert ours(Output().add_stream_content(iter([value, value])))[2] == sent.pieces


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), [float("inf")], {"a": b"x"}, 1j])
def test_what_they_cannot_send_is_not_sent_here(theirs: Any, value: Any) -> None:
    for kind in (theirs.Output, Output):
        with pytest.raises((TypeError, ValueError)):
            kind().add_as_json(value)


def filled(kind: Any, kind_of_body: str, parts: list[tuple[str | None, bytes]], **properties: str) -> Any:
    one = kind()
    one.function_name = "handle"
    one.properties |= {"Content-Type": kind_of_body, **properties}
    for key, value in parts:
        one.content.add(key, bytearray(value))
    return one


ARRAYS = ndlist.write([np.arange(3), np.ones((2, 2), np.float32)])
INPUTS: list[tuple[str, list[tuple[str | None, bytes]], str]] = [
    ("application/json", [("data", b'{"a": [1]}')], "one.get_data()"),
    ("application/json; charset=utf-8", [(None, b'"\xc3\xa4"')], "one.get_data()"),
    ("text/plain", [("x", b"1"), ("y", b"2")], "one.get_data('y'), one.get_as_string(), one.contains_key('z')"),
    ("text/csv", [("data", b"a,b\n1,2\n")], "one.get_as_csv(), one.get_data()"),
    ("a/b", [("data", b"\x00")], "one.get_data(), one.get_as_bytes(), type(one.get_as_bytes())"),
    ("a/b", [("x", b"1"), ("data", b"2")], "one.get_as_bytes(), one.get_as_bytes('x')"),
    ("a/b", [], "one.get_data(), one.get_as_bytes(), one.is_empty(), one.get_batch_size(), one.is_batch()"),
    ("a/b", [("x", b"1")], "one.get_content().keys, one.get_content().values, one.get_content().size()"),
    ("a/b", [("x", b"1")], "one.get_property('CONTENT-TYPE'), one.get_property('none'), one.get_properties()"),
    ("a/b", [("x", b"1")], "str(one), one.get_function_name()"),
    ("tensor/ndlist", [("data", ARRAYS)], "[(a.tolist(), a.dtype.str) for a in one.get_data()]"),
    ("text/plain", [("batch_000.data", b"1"), ("batch_001.k", b"2")], "[str(each) for each in one.get_batches()]"),
]


@pytest.mark.parametrize(("kind", "parts", "expression"), INPUTS)
def test_inputs(theirs: Any, kind: str, parts: list[tuple[str | None, bytes]], expression: str) -> None:
    batch = {"batch_size": "2", "batch_001.p": "q"} if "get_batches" in expression else {}
    found = [eval(expression, {"one": filled(each, kind, parts, **batch)}) for each in (Input, theirs.Input)]
    assert found[0] == found[1]


def test_every_public_name_of_theirs_is_there(theirs: Any) -> None:
    for mine, other in ((Input, theirs.Input), (Output, theirs.Output), (PairList, theirs.PairList)):
        missing = {name for name in dir(other()) if not name.startswith("_")} - set(dir(mine()))
        # These speak to DJL's own server.
        assert missing <= {"read", "send", "binary_encode", "write_utf8"}
