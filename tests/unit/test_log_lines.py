"""The form of log lines: JSON for machines; for people columns, which no text from a client can disturb."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from logging import LogRecord
from typing import Any

import pytest

from serving.system import loglines
from serving.system.loglines import JsonFormatter, TextFormatter

AT = 1_700_000_000.123  # 22:13:20 UTC
PID = str(os.getpid())


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(message: str, level: int = logging.INFO, exc: BaseException | None = None, **fields: Any) -> LogRecord:
    told = None if exc is None else (type(exc), exc, exc.__traceback__)
    made = LogRecord("serving", level, "", 0, message, None, told)
    made.created, made.fields = AT, fields
    return made


def text(*of: Any, color: bool = False, **fields: Any) -> str:
    line = TextFormatter("http", color).format(record(*of, **fields))
    return line.replace(f"http {PID}".ljust(17), "http 4711        ")


def test_columns_of_text() -> None:
    assert text("listening", host="127.0.0.1", port=8080) == (
        "22:13:20.123 info     http 4711         listening                                        "
        "host=127.0.0.1 port=8080"
    )
    assert text("stopping", logging.WARNING) == "22:13:20.123 warning  http 4711         stopping"
    longer = "custom attributes dropped: not printable ASCII of at most 1024"
    assert text(longer, logging.CRITICAL, request_id="a-1").endswith(
        f"critical http 4711         {longer} request_id=a-1"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a/b.c:1-2_3", "a/b.c:1-2_3"),
        ("größe", "größe"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("\x1b[31mred", r'"\u001b[31mred"'),
        ("\x9b2J", '"\\x9b2J"'),
        (1.5, "1.5"),
        (True, "true"),
        (["a", "b"], '["a","b"]'),
        ({"a": 1}, '{"a":1}'),
        (OSError("x y"), '"x y"'),
        ("\ud800", r'"\ud800"'),
    ],
)
def test_a_value_with_spaces_or_signs_is_quoted(value: object, shown: str) -> None:
    assert text("m", key=value).rpartition(" key=")[2] == shown


def test_what_has_many_lines_is_below_and_indented() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as exc:
        head, *below = text("a request failed", logging.ERROR, exc, stacks="one\n  two\n", worker=7).split("\n")
    assert head == "22:13:20.123 error    http 4711         a request failed                                 worker=7"
    assert below[:4] == ["    stacks:", "        one", "          two", "    Traceback (most recent call last):"]
    assert below[-2:] == ["    ValueError: two", "    lines"]
    assert text("a table\n  1 | 2\n", stream="stdout").split("\n")[1:] == ["      1 | 2", ""]


def test_colors_are_for_the_level_and_for_orientation() -> None:
    assert text("stopping", logging.WARNING, color=True, signal="SIGTERM") == (
        "\x1b[2m22:13:20.123\x1b[0m \x1b[33mwarning \x1b[0m \x1b[2mhttp 4711        \x1b[0m "
        "stopping                                         \x1b[36msignal=\x1b[0mSIGTERM"
    )
    try:
        raise ValueError("x")
    except ValueError as exc:
        assert text("m", logging.ERROR, exc, color=True).endswith("\n    \x1b[31mValueError: x\x1b[0m")


def test_of_escapes_only_colors_reach_a_terminal() -> None:
    said = "\x1b[1mbold\x1b[0m \x1b[2J\x1b]0;title\x07 \x08"
    assert text(said).endswith(r"bold \x1b[2J\x1b]0;title\x07 \x08")
    assert text(said, color=True).endswith("\x1b[1mbold\x1b[0m \\x1b[2J\\x1b]0;title\\x07 \\x08\x1b[0m")


def test_json_has_the_fields_beside_the_message() -> None:
    line = json.loads(JsonFormatter("http").format(record("m", logging.ERROR, ValueError("x"), code="c", odd="\ud800")))
    assert line.pop("traceback") == "ValueError: x"
    assert line.pop("odd") == "\ud800"
    assert line == {
        "time": "2023-11-14T22:13:20.123+00:00",
        "level": "error",
        "role": "http",
        "pid": os.getpid(),
        "message": "m",
        "code": "c",
    }


def test_a_context_adds_fields_and_changes_none() -> None:
    form = JsonFormatter("worker")
    form.context = lambda fields: {"model": "m", "request_id": "r"} if "lines" not in fields else {}
    line = json.loads(form.format(record("m", request_id="own")))
    assert (line["model"], line["request_id"]) == ("m", "own")
    form.standing = {"model": "standing", "rank": 1}
    line = json.loads(form.format(record("m")))
    assert (line["model"], line["request_id"], line["rank"]) == ("m", "r", 1)
    bare = record("m")
    bare.is_bare = True
    line = json.loads(form.format(bare))
    assert (line["model"], "request_id" in line) == ("standing", False)


@pytest.mark.parametrize(
    ("term", "no_color", "shows"),
    [("xterm", "", True), ("dumb", "", False), ("", "", False), ("xterm", "1", False)],
)
def test_color_is_for_terminals_that_show_it(
    term: str, no_color: str, shows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TERM", term), ("NO_COLOR", no_color)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    leader, terminal = os.openpty()
    reader, pipe = os.pipe()
    assert loglines.shows_color(terminal) == shows
    assert not loglines.shows_color(pipe)
    for fd in (leader, terminal, reader, pipe):
        os.close(fd)
    assert not loglines.shows_color(pipe), "it is closed"
