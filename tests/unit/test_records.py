"""Bodies of many records in which some are bad: the good ones are answered, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.errors import BadRequest, ServingError
from serving.handler import BatchPolicy, Handler
from serving.request import Request, Response
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.engine import Engine
from serving.worker.rules import Rules
from tests.unit.test_engine import Stamps


class Squares(Handler):
    """CSV or JSON Lines of numbers in, their squares out; 13 fails in the model, 99 breaks it for everybody."""

    policy = BatchPolicy(max_size=4)

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, batch: Any) -> Any:
        self.calls += 1
        if (batch == 13).any():
            raise BadRequest("unlucky")
        if (batch == 99).any():
            raise ValueError("broken")
        return batch * batch


class Broken(Squares):
    def decode(self, request: Request) -> Any:
        return json.loads(request.body)  # type: ignore[name-defined]  # noqa: F821  which nobody has imported


class Named(Squares):
    """Its columns have a name, which may be the first row."""

    def has_header(self, fields: list[str]) -> bool:
        if fields == ["?"]:
            raise BadRequest("nobody can tell")
        return fields == ["size"]

    def decode(self, request: Request) -> Any:
        rows = [line for line in bytes(request.body).split() if line != b"size"]
        return np.array([[float(row)] for row in rows])


def ask(
    bodies: list[bytes],
    content_type: str,
    accept: str,
    bad_record: str | None = "ERROR",
    handler: Handler | None = None,
) -> list[Any]:
    handler = handler or Squares()
    answers: dict[int, Any] = {}
    batcher = Batcher(handler.policy, 100)
    rules = Rules(bad_record=bad_record)
    engine = Engine(handler, batcher, Stamps(), lambda all: answers.update({i.id: o for i, o in all}), rules)
    for id, body in enumerate(bodies):
        batcher.put(Item(id, Request(body, content_type, accept)))
    batcher.close()
    engine.run()
    return [show(answers[id]) for id in range(len(bodies))]


def show(outcome: Response | ServingError) -> Any:
    return (outcome.status, outcome.code) if isinstance(outcome, ServingError) else bytes(outcome.body)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"1\n2\n3\n", b"1.0\n4.0\n9.0\n"),
        (b"1\nx\n3\n", b"1.0\nERROR\n9.0\n"),
        (b"1\n2\n13\n", b"1.0\n4.0\nERROR\n"),
        (b"x\n13\n3", b"ERROR\nERROR\n9.0\n"),
        (b"1\n2,3\n4\n", b"1.0\n4.0,9.0\n16.0\n"),
        (b"x\ny\n", b"ERROR\nERROR\n"),
        (b"99\n1\n", b"ERROR\n1.0\n"),
        (b"x\n", b"ERROR\n"),
    ],
)
def test_each_record_has_its_line(body: bytes, answer: bytes) -> None:
    assert ask([body], "text/csv", "text/csv") == [answer]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"size\n1\n2\n", b"1.0\n4.0\n"),
        (b"size\n1\nx\n2\n", b"1.0\nERROR\n4.0\n"),
        (b"size\nx\n2\n3\n4\n", b"ERROR\n4.0\n9.0\n16.0\n"),
        (b"1\nx\n2\n", b"1.0\nERROR\n4.0\n"),
        (b'size\n1\nx"\n2\n', b"1.0\nERROR\n4.0\n"),
        (b"?\n1\nx\n2\n", (400, "bad_request")),
    ],
)
def test_a_header_that_the_handler_knows_is_no_record(body: bytes, answer: Any) -> None:
    assert ask([body], "text/csv", "text/csv", handler=Named()) == [answer]


def test_a_mistake_of_the_handlers_fails_the_body() -> None:
    assert ask([b"[1]\n[2]\n"], "application/jsonlines", "", handler=Broken()) == [(500, "handler_error")]


def test_where_nothing_works_through_no_fault_of_the_records_the_request_fails() -> None:
    assert ask([b"99\n99\n"], "text/csv", "text/csv") == [(500, "handler_error")]


def test_without_a_placeholder_the_request_fails_as_a_whole() -> None:
    assert ask([b"1\nx\n3\n"], "text/csv", "text/csv", None) == [(400, "bad_request")]


def test_a_header_is_no_record() -> None:
    assert ask([b"a\n1\nx\n"], "text/csv; header=present", "text/csv") == [b"1.0\nERROR\n"]


def test_json_lines_have_a_placeholder_that_is_json() -> None:
    body = b"[1]\nnope\n[3]\n"
    assert ask([body], "application/jsonlines", "application/jsonlines") == [b'[1]\n"ERROR"\n[9]\n']
    object = '{"error": true}'
    assert ask([body], "application/jsonlines", "application/jsonlines", object) == [b'[1]\n{"error": true}\n[9]\n']


def test_an_answer_in_json_is_a_list_of_as_many() -> None:
    assert ask([b"1\nx\n3\n"], "text/csv", "application/json") == [b'[[1.0],"ERROR",[9.0]]']


def test_other_requests_of_the_batch_are_answered_as_ever() -> None:
    assert ask([b"1\n2", b"13\n1", b"3\n4"], "text/csv", "text/csv") == [b"1.0\n4.0\n", b"ERROR\n1.0\n", b"9.0\n16.0\n"]


def test_a_body_without_records_fails_as_ever() -> None:
    assert ask([b"nope"], "application/json", "application/json") == [(400, "bad_request")]


def test_a_bad_record_costs_a_few_calls_and_not_one_for_each() -> None:
    handler = Squares()
    answers: dict[int, Any] = {}
    batcher = Batcher(handler.policy, 100)
    engine = Engine(
        handler, batcher, Stamps(), lambda all: answers.update({i.id: o for i, o in all}), Rules(bad_record="E")
    )
    body = b"\n".join(b"%d" % n for n in (*range(200, 700), 13, *range(1000, 1500)))
    batcher.put(Item(0, Request(body, "text/csv", "text/csv")))
    batcher.close()
    engine.run()
    lines = bytes(answers[0].body).splitlines()
    assert len(lines) == 1001
    assert lines[500] == b"E"
    assert float(lines[501]) == 1000.0**2
    assert handler.calls < 1001 / handler.policy.max_size + 10
