"""What clients hear of user code that fails: in production its type, on a desk its text and place as well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving import Handler, Request
from serving.errors import ServingError
from serving.testing import Client
from serving.worker.engine import failures


@pytest.fixture(params=[True, False], ids=["local", "production"])
def local(request: pytest.FixtureRequest) -> Iterator[bool]:
    failures.show_details(request.param)
    yield request.param
    failures.show_details(False)


class Teapot(Exception):
    status_code = 418


def deep(text: str) -> Any:
    raise ValueError(text)


def chained(text: str) -> Any:
    try:
        deep(text)
    except ValueError as exc:
        raise ServingError("a step failed; the log has more") from exc


class Fails(Handler):
    """Where the request says, by ``how``."""

    def __init__(self, where: str, how: Callable[[str], Any]) -> None:
        self.where, self.how = where, how

    def decode(self, request: Request) -> Any:
        return self.how("mine") if self.where == "decode" else 1

    def bucket(self, sample: Any) -> Any:
        return self.how("mine") if self.where == "bucket" else ()

    def predict(self, batch: Any) -> Any:
        return self.how("mine") if self.where == "predict" else batch

    def split(self, outputs: Any, n: int) -> Any:
        return self.how("mine") if self.where == "split" else outputs

    def encode(self, output: Any, request: Request) -> Any:
        if self.where == "stream":
            return (self.how("mine") for _ in [1])
        return self.how("mine") if self.where == "encode" else output


@pytest.mark.parametrize("where", ["decode", "bucket", "predict", "split", "encode", "stream"])
def test_text_and_place_are_told_on_a_desk_alone(where: str, local: bool) -> None:
    [outcome] = Client(Fails(where, deep)).batch([Request(b"1")])
    assert isinstance(outcome, ServingError)
    assert outcome.status == (400 if where == "decode" else 500)
    assert ("unit/test_failures.py:" in outcome.message) is local
    assert ("in deep" in outcome.message) is local
    assert ("mine" in outcome.message) is (local or where == "decode")
    assert ("ValueError" in outcome.message) is (local or where != "decode")
    assert "Traceback" not in outcome.message


@pytest.mark.parametrize("where", ["predict", "encode"])
def test_what_is_behind_an_error_of_its_own_is_told_likewise(where: str, local: bool) -> None:
    [outcome] = Client(Fails(where, chained)).batch([Request(b"1")])
    assert isinstance(outcome, ServingError)
    said = "a step failed: ValueError: mine (unit/test_failures.py:"
    assert outcome.message.startswith(said if local else "a step failed; the log has more")


OWN = [
    NameError("n"),
    ImportError("i"),
    NotImplementedError("later"),
    SystemExit(3),
    KeyboardInterrupt(),
    TimeoutError("z"),
    ConnectionResetError(),
    FileNotFoundError(2, "no such file"),
    PermissionError(13, "not allowed"),
]
THEIRS = [ValueError("v"), KeyError("k"), TypeError("t"), AttributeError("a"), RuntimeError("r"), OSError("cut short")]


@pytest.mark.parametrize("raised", OWN, ids=repr)
def test_what_no_body_can_cause_is_no_fault_of_the_client(raised: BaseException) -> None:
    def fail(text: str) -> Any:
        raise raised

    [outcome] = Client(Fails("decode", fail)).batch([Request(b"1")])
    assert isinstance(outcome, ServingError)
    assert (outcome.status, outcome.code) == (500, "handler_error")


@pytest.mark.parametrize("raised", THEIRS, ids=repr)
def test_what_a_body_may_cause_is_a_400(raised: BaseException) -> None:
    def fail(text: str) -> Any:
        raise raised

    [outcome] = Client(Fails("decode", fail)).batch([Request(b"1")])
    assert isinstance(outcome, ServingError)
    assert outcome.status == 400


def test_what_the_handler_chose_to_say_stays(local: bool) -> None:
    def pour(text: str) -> Any:
        raise Teapot("short and stout")

    [outcome] = Client(Fails("predict", pour)).batch([Request(b"1")])
    assert isinstance(outcome, ServingError)
    assert (outcome.status, outcome.message) == (418, "short and stout")


def test_the_body_of_an_error_stays_below_a_kilobyte(local: bool) -> None:
    from serving.frontend.error_responses import Failure, json_body

    def shout(text: str) -> Any:
        raise ValueError("ö\n" * 5000)

    [outcome] = Client(Fails("predict", shout)).batch([Request(b"1")])
    assert isinstance(outcome, ServingError)
    body = json_body(Failure.of(outcome), "1")
    assert len(body) < 1024
    assert json.loads(body)["error"]["code"] == "handler_error"
