"""What scripts of DJL Serving see of Input and Output, and what becomes of what they give: as there, to the byte.

``make compat`` compares the same with DJL's own package; what it said is written down here.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from serving import Request
from serving.adapters.djl.handler import DjlHandler
from serving.errors import ModelError, ServingError
from serving.handler import BatchPolicy
from serving.request import Response
from serving.testing import Client


def client(folder: Path, body: str, before: str = "", max_size: int = 1) -> Client:
    """A script whose ``handle`` does ``body`` for a request and nothing at the start."""
    path = folder / "model.py"
    lines = textwrap.indent(textwrap.dedent(body), "    ")
    path.write_text(
        "import datetime, decimal\nimport numpy as np\nfrom djl_python import Input, Output\n"
        f"{textwrap.dedent(before)}\ndef handle(inputs):\n    if inputs.is_empty():\n        return None\n{lines}\n"
    )
    handler = DjlHandler()
    handler.policy = BatchPolicy(max_size=max_size)
    return Client(handler, folder, script=str(path), properties={})


def ask(folder: Path, body: str, data: bytes = b"{}", kind: str = "application/json", before: str = "") -> Response:
    return client(folder, body, before).invoke(data, kind)


@pytest.mark.parametrize(
    ("output", "status", "body"),
    [
        ("None", 204, b""),
        ("Output()", 200, b""),
        ("Output(code=202, message='later')", 202, b""),
        ("Output().add('a')", 200, b"a"),
        ("Output().add('ä', key='x')", 200, "ä".encode()),
        ("Output().add('a', key='x').add('b', key='data').add('c')", 200, b"b"),
        ("Output().add('a').add('b').add('c')", 200, b"a"),
        ("Output().add('a', batch_index=0)", 200, b"a"),
        ("Output().add(bytearray(b'x'))", 200, b"x"),
        ("Output().add(memoryview(b'x'))", 200, b"x"),
        ("Output().add(None)", 200, b"null"),
        ("Output().add(7)", 200, b"7"),
        ("Output().add({'a': [1, 'ä']})", 200, '{\n  "a":[\n    1,\n    "ä"\n  ]\n}'.encode()),
        ("Output().add_as_json(datetime.datetime(2020, 1, 2, 3))", 200, b'"2020-01-02 03:00:00"'),
        (
            "Output().add_as_json([np.int64(1), np.float32(0.5), np.arange(2)])",
            200,
            b"[\n  1,\n  0.5,\n  [\n    0,\n    1\n  ]\n]",
        ),
        ("Output().set_code(503).set_message('busy').add('x')", 503, b"x"),
        (
            "Output().error('no luck')",
            424,
            b'{\n  "code":424,\n  "message":"invoke handler failure",\n  "error":"no luck"\n}',
        ),
        ("Output().error('e', code=507, message='m')", 507, b'{\n  "code":507,\n  "message":"m",\n  "error":"e"\n}'),
    ],
)
def test_what_an_output_is_to_the_client(tmp_path: Path, output: str, status: int, body: bytes) -> None:
    answer = ask(tmp_path, f"return {output}")
    assert (answer.status, bytes(answer.body)) == (status, body)


@pytest.mark.parametrize("value", ["object()", "{1, 2}", "decimal.Decimal(1)", "float('nan')", "Output"])
def test_what_has_no_form_in_json_is_an_error_and_never_its_name_as_a_text(tmp_path: Path, value: str) -> None:
    with pytest.raises(ServingError) as caught:
        ask(tmp_path, f"return Output().add_as_json({{'a': {value}}})")
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("stream", "body"),
    [
        ("iter(['a', 'ä'])", b'{"outputs": "a"}\n{"outputs": "\\u00e4"}\n'),
        ("iter([{'t': 1}])", b'{"outputs": {"t": 1}}\n'),
        ("iter(['a', 'ä']), None", "aä".encode()),
        ("iter([b'a', bytearray(b'b')]), None", b"ab"),
        ("iter([{'t': 1}, [2]]), None", b'{\n  "t":1\n}[\n  2\n]'),
        ("iter(['a', 'b']), lambda one: one.upper()", b"AB"),
        ("iter([1, 2]), lambda one: {'n': one}", b'{\n  "n":1\n}{\n  "n":2\n}'),
        ("(str(n) for n in range(3)), output_formatter=None", b"012"),
    ],
)
def test_each_piece_of_a_stream(tmp_path: Path, stream: str, body: bytes) -> None:
    assert bytes(ask(tmp_path, f"return Output().add_stream_content({stream})").body) == body


LOG = "calls = []\n"


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("return Output().add(str(calls)).finalize(calls.append, len(calls))", ["[]", "[0]", "[0, 1]"]),
        (
            "at, told = len(calls), str(calls)\n"
            "return Output().add_stream_content(iter([told, ';']), None).finalize(calls.append, at)",
            ["[];", "[0];", "[0, 1];"],
        ),
        ("return Output().add(str(calls)).finalize(lambda: calls.append(1 / 0))", ["[]", "[]", "[]"]),
    ],
)
def test_the_last_function_runs_once_after_each_answer(tmp_path: Path, body: str, seen: list[str]) -> None:
    asker = client(tmp_path, body, LOG)
    assert [bytes(asker.invoke(b"").body).decode() for _ in seen] == seen


def test_the_last_function_runs_where_the_stream_is_closed_early_or_never_begun(tmp_path: Path) -> None:
    asker = client(tmp_path, "return Output().add_stream_content(iter('abc')).finalize(calls.append, 'end')", LOG)
    handler = asker.handler
    assert isinstance(handler, DjlHandler)
    calls = handler.handle.__globals__["calls"]
    for taken in (0, 1, 3):
        [output] = handler.predict([handler.decode(Request(b"x"))])
        pieces = handler.encode(output, Request(b"x")).pieces  # type: ignore[union-attr]
        for _ in range(taken):
            next(pieces)  # type: ignore[arg-type]
        pieces.close()  # type: ignore[union-attr]
        pieces.close()  # type: ignore[union-attr]
        assert calls.pop() == "end"
        assert not calls


@pytest.mark.parametrize(
    ("call", "data", "kind", "seen"),
    [
        ("type(inputs.get_as_bytes()).__name__", b"x", "a/b", "bytearray"),
        ("inputs.get_as_bytes().decode()", b"x", "a/b", "x"),
        ("inputs.get_content().keys", b"x", "a/b", "['data']"),
        ("inputs.get_content().values", b"x", "a/b", "[bytearray(b'x')]"),
        ("inputs.get_content().get('none')", b"x", "a/b", "None"),
        ("inputs", b"x", "text/plain", None),
        ("inputs.get_properties()['device_id']", b"x", "a/b", "-1"),
        ("inputs.get_function_name()", b"x", "a/b", "handle"),
        ("inputs.get_content().get('one')", b"one=1&two=a+b", "application/x-www-form-urlencoded", "bytearray(b'1')"),
        ("inputs.get_as_string()", b"one=1&two=a+b", "application/x-www-form-urlencoded", "1"),
        ("inputs.get_as_string('two')", b"one=1&two=a+b", "application/x-www-form-urlencoded", "a b"),
    ],
)
def test_what_an_input_shows(tmp_path: Path, call: str, data: bytes, kind: str, seen: str | None) -> None:
    found = bytes(ask(tmp_path, f"return Output().add(str({call}))", data, kind).body).decode()
    if seen is None:
        assert found.startswith("properties: {")
        assert found.endswith("\ndata: x")
    else:
        assert found == seen


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nhi\r\n'
    b'--x\r\nContent-Disposition: form-data; name="data"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\x00\xff\r\n--x--\r\n"
)


def test_a_form_has_a_part_for_each_field(tmp_path: Path) -> None:
    body = "return Output().add([str(inputs.get_content().get_keys()), str(inputs.get_as_bytes())])"
    answer = ask(tmp_path, body, FORM, "multipart/form-data; boundary=x")
    assert json.loads(bytes(answer.body)) == ["['text', 'data']", "bytearray(b'\\x00\\xff')"]
    with pytest.raises(ServingError) as caught:
        ask(tmp_path, body, FORM, "multipart/form-data; boundary=y")
    assert caught.value.status == 400


def test_parts_of_a_batch_have_djls_names(tmp_path: Path) -> None:
    body = """
        out = Output()
        for index in range(inputs.get_batch_size()):
            names = [name for name in inputs.get_content().get_keys() if name.startswith(f"batch_{index:03d}")]
            kind = inputs.get_property(f"batch_{index:03d}.content-type")
            out.add([names, kind], key="data", batch_index=index)
        return out
    """
    asker = client(tmp_path, body, max_size=2)
    answers = asker.batch([Request(b"1", "a/b"), Request(b"2", "c/d")])
    assert [json.loads(bytes(one.body)) for one in answers] == [  # type: ignore[union-attr]
        [["batch_000.data"], "a/b"],
        [["batch_001.data"], "c/d"],
    ]


def test_none_for_a_batch_is_no_content_for_each(tmp_path: Path) -> None:
    answers = client(tmp_path, "return None", max_size=3).batch([Request(b"1"), Request(b"2")])
    assert [(one.status, bytes(one.body)) for one in answers] == [(204, b"")] * 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "code",
    [
        "out = Output()\nout.add_property('A', 1)\nassert out.get_property('A') == 1",
        "assert Output().get_properties() == {}\nassert Output().content.is_empty()",
        "out = Output().add('x', key='k', batch_index=2)\nassert out.content.key_at(0) == 'batch_2.k'",
        "assert Output().add('x', batch_index=1).content.keys == ['batch_1.']",
        "assert Output().add('x', key=7).content.get('7') == b'x'",
        "assert Output().finalize(lambda a, b: a + b, 1, 2).execute_finalize() == 3",
        "assert Output().execute_finalize() is None",
        "assert json.loads(str(Output(201, 'm').add('x', 'k')))['code'] == 201",
        "from djl_python.pair_list import PairList\nassert PairList(['a'], [1]).get('a') == 1",
        "from djl_python import PairList\np = PairList()\np.add('a')\nassert p.size() == 0",
        "from djl_python.np_util import to_nd_list, from_nd_list\n"
        "assert from_nd_list(to_nd_list([np.ones(2)]))[0].sum() == 2",
    ],
)
def test_names_that_scripts_use(tmp_path: Path, code: str) -> None:
    client(tmp_path, "return None", before=f"import json\n{code}")


def test_an_output_of_the_start_with_the_code_of_an_error_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("from djl_python import Output\ndef handle(inputs): return Output().error('no weights')\n")
    with pytest.raises(ModelError, match="no weights"):
        Client(DjlHandler(), tmp_path, script=str(path), properties={})
