"""Scripts of SageMaker's toolkits read the text that was sent, and what they answer is of the type that they say."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.test_toolkit import Rig

HEAD = "import numpy as np, torch, json\ndef model_fn(model_dir): return 0\n"
READ = HEAD + "def predict_fn(data, model): return np.array([[1.0, 2.0]])\n"
NPY, NPZ, CSV, JSON, LINES = (
    "application/x-npy", "application/x-npz", "text/csv", "application/json", "application/jsonlines",
)  # fmt: skip


def scripts(answer: str) -> list[str]:
    """Each way to give it."""
    return [
        READ + f"def output_fn(prediction, accept): return {answer}\n",
        HEAD + f"def transform_fn(model, data, kind, accept): return {answer}\n",
        READ + f"def output_fn(prediction, accept, context): return {answer}\n",
    ]


GOOD = [
    ("np.array([[1.0, 2.0]])", CSV, b"1.0,2.0\n"),
    ("torch.tensor([[1.0, 2.0]])", CSV, b"1.0,2.0\n"),
    ("[[1, 'a']]", CSV, b"1,a\n"),
    ("np.array([1.0])", JSON, b"[1.0]"),
    ("{1: {2}}", JSON, b'{"1":[2]}'),
    ("[1, 2]", "application/vnd.mine+json", b"[1,2]"),
    ("[1, 2]", LINES, b"1\n2\n"),
    ("'caf\\xe9'", "text/plain; charset=iso-8859-1", b"caf\xe9"),
    ("'caf\\xe9'", "text/plain", "café".encode()),
    ("'[1]'", JSON, b"[1]"),
    ("b'what it is'", "image/x-mine", b"what it is"),
    ("bytearray(b'x')", "a/b", b"x"),
    ("np.array([1], 'i2')", "application/octet-stream", b"\1\0"),
    ("['\\xe9']", "application/json; charset=iso-8859-1", b'["\xe9"]'),
]


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize(("answer", "kind", "body"), GOOD)
def test_an_answer_is_of_the_type_that_the_script_says(
    tmp_path: Path, answer: str, kind: str, body: bytes, way: int
) -> None:
    found = Rig(tmp_path, scripts(f"({answer}, {kind!r})")[way]).ask(accept="application/json")
    assert (bytes(found.body), found.content_type, found.status) == (body, kind, 200)


@pytest.mark.parametrize("answer", ["np.array([1.0, 2.0])", "torch.tensor([1.0, 2.0], dtype=torch.float64)"])
def test_an_array_is_npy_where_the_script_says_so(tmp_path: Path, answer: str) -> None:
    for number, script in enumerate(scripts(f"({answer}, {NPY!r})")):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = Rig(folder, script).ask()
        assert found.content_type == NPY
        assert np.load(io.BytesIO(found.body)).tolist() == [1.0, 2.0]


BAD = [
    ("'[1]'", NPY),
    ("b'[1]'", NPY),
    ("b'[1]'", NPZ),
    ("{'a': 1}", CSV),
    ("{'a': 1}", NPY),
    ("np.array([1.0])", "image/png"),
    ("object()", JSON),
    ("'caf\\xe9'", "text/plain; charset=us-ascii"),
    ("'x'", "text/plain; charset=utf-9"),
    ("[1]", "application/json; charset=rot13"),
]


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize(("answer", "kind"), BAD)
def test_what_cannot_be_of_that_type_is_an_error_of_the_script(
    tmp_path: Path, answer: str, kind: str, way: int
) -> None:
    error = Rig(tmp_path, scripts(f"({answer}, {kind!r})")[way]).error()
    assert error.status == 500
    assert error.code == "handler_error"
    assert "the log has more" not in error.message


@pytest.mark.parametrize(
    ("answer", "told"), [("(1, 2)", "int, int"), ("('x', 5)", "str, int"), ("(b'x', b'a/b')", "bytes, bytes")]
)
def test_a_tuple_whose_second_is_no_text_is_told_with_its_function(tmp_path: Path, answer: str, told: str) -> None:
    for number, (script, name) in enumerate(
        zip(scripts(answer), ("output_fn", "transform_fn", "output_fn"), strict=True)
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        error = Rig(folder, script).error()
        assert (error.status, error.code) == (500, "handler_error")
        assert f"{name} gave a tuple of {told}; expected" in error.message


@pytest.mark.parametrize("name", ["predct_fn", "predict_fm", "predcit_fn", "predictt_fn", "redict_fn", "predict_f"])
def test_a_name_that_is_one_slip_off_is_told_at_the_start(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = READ + "def other_fn(data): return data\ndef _predict_fn(data): return data\n"
    Rig(tmp_path, right)
    assert "did you mean" not in caplog.text, "what is there is not misspelled, and helpers are called anything"
    (tmp_path / "other").mkdir()
    Rig(tmp_path / "other", HEAD.replace("0", "abs") + f"def {name}(data, model): return data\n")
    [said] = [one for one in caplog.records if "did you mean" in one.message]
    assert said.message == f"{name} is no function that the server calls; did you mean predict_fn?"
    assert "inference.py:3" in str(vars(said))


def test_a_type_that_is_set_beside_the_answer_is_that_of_the_answer(tmp_path: Path) -> None:
    script = HEAD + (
        "def predict_fn(data, model, context):\n"
        "    context.set_response_content_type(0, 'text/csv')\n"
        "    return np.array([[1.0, 2.0]])\n"
    )
    found = Rig(tmp_path, script).ask(accept=JSON)
    assert (found.content_type, bytes(found.body)) == (CSV, b"1.0,2.0\n")


def test_text_is_no_array_where_the_client_wants_one(tmp_path: Path) -> None:
    assert Rig(tmp_path, scripts("'[1]'")[0]).error(accept=NPY).status == 406
    found = Rig(tmp_path, scripts("np.array([1.0])")[0]).ask(accept=NPY)
    assert np.load(io.BytesIO(found.body)).tolist() == [1.0]


TEXTS = HEAD + (
    "def input_fn(data, kind): return [data, kind]\n"
    "def predict_fn(data, model): return data\n"
    "def output_fn(data, accept): return json.dumps(data)\n"
)


@pytest.mark.parametrize("kind", [JSON, CSV])
@pytest.mark.parametrize(
    ("charset", "body"),
    [
        ("", b"\xef\xbb\xbf1,\xc3\xa9"),
        ("", "1,é".encode("utf-16")),
        ("iso-8859-1", b"1,\xe9"),
        ("utf-16le", "1,é".encode("utf-16le")),
        ("windows-1252", b"1,\xe9"),
    ],
)
def test_input_fn_gets_the_text_that_was_sent(tmp_path: Path, kind: str, charset: str, body: bytes) -> None:
    told = f"{kind}; charset={charset}" if charset else kind
    assert json.loads(bytes(Rig(tmp_path, TEXTS).ask(body, told).body)) == ["1,é", kind]
    assert Rig(tmp_path, TEXTS).error(body, f"{kind}; charset=utf-9").status == 415


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, "[[1, 2]]".encode("utf-16")),
        (JSON, "[[1, 2]]".encode("utf-16le")),
        (CSV, b"\xef\xbb\xbf1,2\n"),
        (f"{CSV}; charset=utf-16", "1,2\n".encode("utf-16")),
    ],
)
def test_so_does_what_reads_for_a_script_without_input_fn(tmp_path: Path, kind: str, body: bytes) -> None:
    script = HEAD + "def predict_fn(data, model): return data.reshape(-1)\n"
    assert json.loads(bytes(Rig(tmp_path, script).ask(body, kind).body)) == [1.0, 2.0]


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("kind", ["text/plain\r\nX-Other: 1", "text/plain\n", "a/\xe9", "a/b\t"])
@pytest.mark.parametrize("answer", ["'a'", "(one for one in 'ab')"])
def test_a_type_that_no_header_can_hold_is_an_error_that_names_the_function(
    tmp_path: Path, kind: str, way: int, answer: str
) -> None:
    error = Rig(tmp_path, scripts(f"({answer}, {kind!r})")[way]).error()
    name = "transform_fn" if way == 1 else "output_fn"
    assert (error.status, error.message) == (
        500,
        f"{name} gave the content type {kind!r}; allowed: printable ASCII on one line",
    )


@pytest.mark.parametrize("kind", ["text/plain\r\nX-Other: 1", "a/\xe9"])
@pytest.mark.parametrize("answer", ["'a'", "(one for one in 'ab')"])
def test_so_it_is_where_the_context_was_told(tmp_path: Path, kind: str, answer: str) -> None:
    script = HEAD + (
        "def transform_fn(model, data, kind, accept, context):\n"
        f"    context.set_response_content_type(0, {kind!r})\n"
        f"    return {answer}\n"
    )
    error = Rig(tmp_path, script).error()
    assert (error.status, error.code) == (500, "handler_error")
    assert f"has the content type {kind!r}" in error.message


@pytest.mark.parametrize("accept", ["a\t/b", "a/b\x7f", "a\t/b, application/json"])
def test_a_type_that_is_none_in_accept_is_no_wish(tmp_path: Path, accept: str) -> None:
    assert Rig(tmp_path, READ).ask(accept=accept).content_type == JSON


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["a,b", '"a\nb",c', '\n"a",b', "1,2"])
def test_a_header_that_the_type_says_is_no_record(tmp_path: Path, header: str, end: str) -> None:
    script = HEAD + "def predict_fn(data, model): return data.reshape(-1)\n"
    rig = Rig(tmp_path, script)
    body = f"{header}{end}3,4{end}5,6{end}".encode()
    assert json.loads(bytes(rig.ask(body, f"{CSV}; header=present").body)) == [3.0, 4.0, 5.0, 6.0]
    assert json.loads(bytes(rig.ask(b"3,4\n5,6\n", f"{CSV}; header=absent").body)) == [3.0, 4.0, 5.0, 6.0]
    assert rig.error(body, f"{CSV}; header=yes").status == 400


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("application/*;q=0, */*", None),
        ("application/json;q=0, text/csv", CSV),
        ("text/csv;q=0", JSON),
        ("text/csv;q=0, */*", JSON),
        ("text/csv;q=0, application/x-npy;q=0.1", NPY),
        ("*/*;q=0, application/json", JSON),
    ],
)
def test_a_type_that_the_client_does_not_take_is_not_sent(tmp_path: Path, accept: str, kind: str | None) -> None:
    rig = Rig(tmp_path, READ)
    if kind is None:
        assert rig.error(accept=accept).status == 406
    else:
        assert rig.ask(accept=accept).content_type == kind
