"""Rows in, predictions out, row for row; what is no row of the model is refused with its number."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handlers.tabular import TabularHandler
from serving import BadRequest, Request, UnsupportedMediaType
from serving.errors import ModelError
from serving.request import Response
from serving.testing import Client

COLUMNS = ["a", "b", "c"]
LINES = "application/jsonlines"


class Sum(nn.Module):
    """[n, k] to [n, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1, keepdim=True)


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def write(folder: Path, module: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(module), str(folder / "model.pt"))
    return folder


@pytest.fixture
def regression(tmp_path: Path) -> Client:
    return Client(TabularHandler, write(tmp_path, Sum()), columns=COLUMNS)


@pytest.fixture
def classification(tmp_path: Path) -> Client:
    (tmp_path / "labels.txt").write_text("left\nmiddle\nright\n")
    return Client(TabularHandler, write(tmp_path, Same()), columns=COLUMNS, task="classification")


def ask(client: Client, body: object, kind: str = "application/json", accept: str = "") -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(bytes(client.invoke(data, kind, accept).body))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[[1, 2, 3], [4, 5, 6]]", "application/json"),
        (b'{"instances": [[1, 2, 3], [4, 5, 6]]}', ""),
        (b'[{"c": 3, "a": 1, "b": "2"}, {"a": 4, "b": 5, "c": 6}]', "application/json"),
        (b"1,2,3\n4,5,6\n", "text/csv"),
        (b"c,b,a\n3,2,1\n6,5,4\n", "text/csv"),
        (b"a,b,c\n1,2,3\n4,5,6", "text/csv; header=present"),
        (b'[1, 2, 3]\n{"b": 5, "a": 4, "c": 6}\n', LINES),
        (npy(np.arange(1, 7, dtype=np.int32).reshape(2, 3)), "application/x-npy"),
    ],
)
def test_rows_come_in_any_form_and_the_answer_has_as_many(regression: Client, body: bytes, kind: str) -> None:
    assert ask(regression, body, kind) == [[6.0], [15.0]]


def test_one_bare_row_has_one_bare_answer(regression: Client) -> None:
    assert ask(regression, [1, 2, 3]) == [6.0]
    assert ask(regression, {"a": 1, "b": 2, "c": 3}) == [6.0]


def test_answers_in_lines_have_a_line_a_row(regression: Client) -> None:
    body = b"1,2,3\n4,5,6\n"
    assert bytes(regression.invoke(body, "text/csv", "text/csv").body) == b"6.0\n15.0\n"
    assert bytes(regression.invoke(body, "text/csv", LINES).body) == b"[6.0]\n[15.0]\n"


def test_classes_have_labels_and_scores(classification: Client) -> None:
    found = ask(classification, [[0, 9, 0], [9, 0, 0]])
    assert [one["label"] for one in found] == ["middle", "left"]
    assert found[0]["score"] == pytest.approx(float(torch.tensor([0.0, 9, 0]).softmax(0)[1]))
    assert ask(classification, [0, 0, 9])["label"] == "right"
    lines = bytes(classification.invoke(b"9,0,0\n0,0,9\n", "text/csv", "text/csv").body).decode().splitlines()
    assert [line.split(",")[0] for line in lines] == ["left", "right"]
    lines = bytes(classification.invoke(b"9,0,0\n0,0,9\n", "text/csv", LINES).body).decode().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["left", "right"]


def test_one_output_is_the_probability_of_the_second_class(tmp_path: Path) -> None:
    client = Client(TabularHandler, write(tmp_path, Sum()), columns=2, task="classification", outputs="probabilities")
    assert ask(client, [[0.5, 0.25], [0.0, 0.25]]) == [{"label": "1", "score": 0.75}, {"label": "0", "score": 0.75}]


def test_requests_of_unequal_row_counts_share_a_batch(regression: Client) -> None:
    bodies = [b"[[1, 1, 1]]", b"[[2, 2, 2], [3, 3, 3]]", b"[4, 4, 4]"]
    outcomes = regression.batch([Request(body, "application/json") for body in bodies])
    answers = [json.loads(bytes(one.body)) for one in outcomes if isinstance(one, Response)]
    assert answers == [[[3.0]], [[6.0], [9.0]], [12.0]]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"[[1, 2, 3], [4, 5]]", "application/json", "row 2 has 2 columns; the model takes 3"),
        (b"1,2,3\n4,x,6", "text/csv", "row 2, column b is no number: 'x'"),
        (b"1,2,3\n4,,6", "text/csv", "row 2, column b is empty"),
        (b"a,b,d\n1,2,3", "text/csv", "row 1 has unknown columns: d"),
        (b"a,b,a\n1,2,3", "text/csv", "names a column twice"),
        (b"a,b,c\n1,2", "text/csv", "row 1 has 2 columns; the header has 3"),
        (b'[{"a": 1, "b": 2}]', "application/json", "row 1, column c is empty"),
        (b"[[1, 2, [3]]]", "application/json", "row 1, column c is no number"),
        (b"[[1, 2, 3], 4]", "application/json", "row 2 is neither a list nor an object"),
        (b"[]", "application/json", "no rows"),
        (b"3", "application/json", "neither a row nor a list"),
        (b"", "text/csv", "no rows"),
        (b"{", "application/json", "no JSON"),
        (b'[1, 2, "\xc3\xa91"]', "application/json", "no number"),
    ],
)
def test_what_is_no_row_is_refused_with_its_place(regression: Client, body: bytes, kind: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        regression.invoke(body, kind)


def test_other_types_are_refused(regression: Client) -> None:
    with pytest.raises(UnsupportedMediaType, match="image/png"):
        regression.invoke(b"x", "image/png")


def test_missing_fields_take_the_value_that_stands_for_them(tmp_path: Path) -> None:
    client = Client(TabularHandler, write(tmp_path, Sum()), columns=COLUMNS, missing=-1.0)
    assert ask(client, b"1,,3\n", "text/csv") == [[3.0]]
    assert ask(client, [1, None, 3]) == [3.0]


def test_integers_are_integers(tmp_path: Path) -> None:
    client = Client(TabularHandler, write(tmp_path, Sum()), dtype="int64")
    assert ask(client, [[1, 2]]) == [[3.0]]
    with pytest.raises(BadRequest, match="integers only"):
        client.invoke(b"[[1.5, 2]]")
    with pytest.raises(BadRequest, match="integers only"):
        client.invoke(b"inf,2", "text/csv")
    with pytest.raises(BadRequest, match="differ in length"):
        client.invoke(b"[[1, 2], [3]]")


def test_a_header_can_be_ruled_out(tmp_path: Path) -> None:
    client = Client(TabularHandler, write(tmp_path, Sum()), header="absent")
    with pytest.raises(BadRequest, match="row 1, column 1 is no number: 'a'"):
        client.invoke(b"a,b\n1,2", "text/csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ranking"}, "task is 'ranking'; allowed: regression, classification"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"labels": "names.txt"}, "has no names.txt"),
    ],
)
def test_options_are_checked_when_the_model_loads(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Client(TabularHandler, write(tmp_path, Sum()), **options)


def test_labels_come_in_every_usual_form(tmp_path: Path) -> None:
    for text in ('["x", "y", "z"]', '{"0": "x", "2": "z"}', '{"0": ["n01", "x"], "2": ["n02", "z"]}'):
        (tmp_path / "index_to_name.json").write_text(text)
        client = Client(TabularHandler, write(tmp_path, Same()), task="classification")
        assert [one["label"] for one in ask(client, [[9, 0, 0], [0, 0, 9]])] == ["x", "z"]
    (tmp_path / "index_to_name.json").write_text("3")
    with pytest.raises(ModelError, match="names of the outputs"):
        Client(TabularHandler, tmp_path)
