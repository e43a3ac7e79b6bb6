"""Output and the handler above it: no writer ever waits longer than it may, and lines that are lost are counted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.system import log
from serving.system.loglines import JsonFormatter
from serving.system.output import Output

LIMIT = 20.0  # seconds


class Pipe:
    """A pipe that is read when the test wants it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def fill(self) -> None:
        """Leave no room."""
        os.set_blocking(self.writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writer, b"." * 4096)
        os.set_blocking(self.writer, True)

    def read(self) -> bytes:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self.reader, 1 << 20):
                data += more
        return data

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read().lstrip(b".").decode().splitlines() if line]

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.close()


def handler(
    pipe: Pipe, patience: float = log.PATIENCE, clock: Callable[[], float] = time.monotonic
) -> log.StdoutHandler:
    made = log.StdoutHandler(patience, pipe.writer, clock)
    made.setFormatter(JsonFormatter("test"))
    return made


def say(to: log.StdoutHandler, message: str, **fields: Any) -> float:
    """Log an event; returns the seconds that it took."""
    began = time.monotonic()
    to.handle(log.made(logging.INFO, message, None, fields))
    return time.monotonic() - began


def test_a_pipe_that_nobody_reads_holds_up_no_writer_even_where_another_fills_it_first(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    assert not fcntl.fcntl(pipe.writer, fcntl.F_GETFL) & os.O_NONBLOCK, "others share it, and may count on it"
    assert output.write(b"a" * 70_000, 0.0) is False
    assert not output.has_room()
    # What poll has said may be wrong by the time of the write.
    output.has_room = lambda seconds=0.0: True  # type: ignore[method-assign]
    began = time.monotonic()
    assert output.write(b"line\n", 0.05) is False
    assert time.monotonic() - began < LIMIT
    del output.has_room
    assert pipe.read() == b"a" * 65_536
    assert output.write(b"line\n", 0.0)
    assert pipe.read() == b"\nline\n", "what was torn ends first"
    assert output.write(b"line\n", 0.0)
    assert pipe.read() == b"line\n"


def test_a_socket_a_file_and_a_closed_pipe(pipe: Pipe, tmp_path: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Output(ours.fileno()).write(b"x" * 10_000, 0.0)
        assert len(theirs.recv(20_000, socket.MSG_WAITALL | socket.MSG_PEEK)) >= 4096
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.write(b"before\n")
        assert Output(file.fileno()).write(b"line\n", 0.0)
        file.write(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before\nline\nafter\n"
    assert Output(1 << 20).write(b"into nothing\n", 0.0), "it is closed"
    output = Output(pipe.writer)
    os.close(pipe.reader)
    with pytest.raises(BrokenPipeError):
        output.write(b"line\n", 0.0)
    assert say(handler(pipe), "nobody hears this") < LIMIT


def test_lines_that_find_no_room_are_counted_and_told_when_there_is_some(pipe: Pipe) -> None:
    one = handler(pipe)
    pipe.fill()
    assert say(one, "a") >= log.PATIENCE
    taken = sum(say(one, f"b {number}") for number in range(50))
    assert taken < log.PATIENCE, "only the first waits"
    one.write_left_out()
    pipe.read()
    one.write_left_out()
    [note] = pipe.lines()
    assert (note["message"], note["lines"], note["level"]) == ("log lines were dropped", 51, "warning")
    one.write_left_out()
    say(one, "c")
    assert [line["message"] for line in pipe.lines()] == ["c"]


def test_a_loop_waits_for_a_slow_reader_only_a_part_of_its_time(pipe: Pipe) -> None:
    one = handler(pipe)
    began = time.monotonic()
    waits = 0
    while time.monotonic() - began < 1.0:
        pipe.fill()
        waits += say(one, "of the loop") >= log.PATIENCE
        pipe.read()
        say(one, "to a reader that has caught up")
    assert 1 <= waits <= 2


def test_with_patience_for_user_code_a_thread_that_runs_a_loop_has_little(pipe: Pipe) -> None:
    one = handler(pipe, patience=LIMIT)
    pipe.fill()
    busy = threading.Thread(target=say, args=(one, "of user code"))
    busy.start()
    until = time.monotonic() + LIMIT
    while one.lock is not None and one.lock.acquire(blocking=False):
        one.lock.release()
        assert time.monotonic() < until, "user code does not wait"
    seconds: list[float] = []

    def run() -> None:
        one.hurry()
        seconds.append(say(one, "of the loop"))

    loop = threading.Thread(target=run)
    loop.start()
    loop.join(LIMIT)
    assert seconds[0] < LIMIT / 4
    said = pipe.lines()
    busy.join(LIMIT)
    one.write_left_out()
    said += pipe.lines()
    found = [(line["message"], line.get("lines")) for line in said]
    assert found == [("of user code", None), ("log lines were dropped", 1)]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_repeats_of_an_event_are_summed_up_whatever_its_request(pipe: Pipe) -> None:
    clock = Clock()
    one = handler(pipe, clock=clock)
    for number in range(30):
        say(one, "a request failed", request_id=str(number), code="internal", model="m")
    say(one, "a request failed", request_id="x", code="other", model="m")
    lines = pipe.lines()
    assert [line["request_id"] for line in lines] == [*map(str, range(10)), "x"]
    one.write_left_out()
    assert pipe.lines() == []
    clock.now += 1.0
    one.write_left_out()
    [line] = pipe.lines()
    assert line["message"] == "repeated lines were left out"
    assert (line["lines"], line["like"], line["code"], line["model"]) == (20, "a request failed", "internal", "m")
    assert "request_id" not in line


def test_repeats_that_find_no_room_count_as_dropped(pipe: Pipe) -> None:
    clock = Clock()
    one = handler(pipe, clock=clock)
    for _ in range(30):
        say(one, "a")
    pipe.read()
    clock.now += 1.0
    pipe.fill()
    say(one, "b")
    pipe.read()
    say(one, "c")
    assert [(line["message"], line.get("lines")) for line in pipe.lines()] == [
        ("log lines were dropped", 21),
        ("c", None),
    ]


def test_records_of_user_code_are_told_apart_by_the_line_that_wrote_them(pipe: Pipe) -> None:
    one = handler(pipe)
    user = logging.Logger("user")
    user.addHandler(one)
    for number in range(20):
        user.warning("first %d", number)
        user.warning(f"second {number}")
    found = [line["message"].split()[0] for line in pipe.lines()]
    assert (found.count("first"), found.count("second")) == (10, 10)


def test_a_fork_leaves_it_to_its_parent_to_say_what_was_left_out(pipe: Pipe) -> None:
    clock = Clock()
    one = handler(pipe, clock=clock)
    for _ in range(30):
        say(one, "a")
    pipe.read()
    clock.now += 1.0
    child = os.fork()
    if child == 0:
        say(one, "of the child")
        os._exit(0)
    os.waitpid(child, 0)  # not any child: earlier tests may have left some
    assert [line["message"] for line in pipe.lines()] == ["of the child"]
    say(one, "of the parent")
    assert [line.get("lines") for line in pipe.lines()] == [20, None]


def test_a_line_waits_for_another_thread_that_writes_just_then(pipe: Pipe) -> None:
    made = handler(pipe)
    record = logging.LogRecord("serving", logging.INFO, "", 0, "a line", None, None)
    for _ in range(5):
        made.handle(record)
        assert made.lock is not None
        made._waits_from = time.monotonic() + LIMIT  # as after a slow reader
        made.lock.acquire()
        other = threading.Thread(target=made.handle, args=(record,))
        other.start()
        other.join(0.03)
        assert other.is_alive(), "it waits"
        made.lock.release()
        other.join(LIMIT)
    assert [line["message"] for line in pipe.lines()] == ["a line"] * 10
