"""What is printed becomes lines of the log: at once where it ends, in time where it does not, and never twice."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from serving.config import words
from serving.usercode.prints import INTERVAL, LONGEST, Printed


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """One stream over a fake clock, and the file of what it holds."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.lines = Clock(), list[str]()
        self.path = folder / "words"
        self.printed = Printed(1, self.lines.append, words.make(self.path)[0], self.clock)
        self.text = io.TextIOWrapper(self.printed, encoding="utf-8", errors="backslashreplace", write_through=True)

    def held(self) -> str:
        return words.read(self.path).get("stdout", "")

    def take(self) -> list[str]:
        taken, self.lines[:] = list(self.lines), []
        return taken


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_lines_are_written_as_they_end(bench: Bench) -> None:
    print("one", file=bench.text)
    print("two\n\nthree", "four", file=bench.text)
    bench.text.writelines(["a\n", "b\r\n"])
    bench.printed.write("ü\n".encode())
    assert bench.take() == ["one", "two", "three four", "a", "b", "ü"]
    assert not bench.held()


def test_what_has_no_end_is_written_when_flushed_or_old_and_found_after_death(bench: Bench) -> None:
    print("reading ... ", end="", file=bench.text)
    assert bench.take() == []
    assert bench.held() == "reading ... "
    bench.text.flush()
    assert bench.take() == ["reading ... "]
    print("x", end="", flush=True, file=bench.text)  # too soon after the last
    print("y", end="", flush=True, file=bench.text)
    bench.printed.write_old()
    assert (bench.take(), bench.held()) == ([], "xy")
    bench.clock.now += INTERVAL
    bench.printed.write_old()
    assert (bench.take(), bench.held()) == (["xy"], "")
    print(" done", file=bench.text)
    print("never flushed", end="", file=bench.text)
    bench.printed.write_old()
    assert bench.take() == [" done"]
    bench.clock.now += INTERVAL
    bench.printed.write_old()
    bench.printed.write_all()
    assert bench.take() == ["never flushed"]


def test_a_bar_is_written_once_a_second_and_as_it_ends(bench: Bench) -> None:
    for step in range(101):
        bench.clock.now += 0.05
        bench.text.write(f"\r{step:3}%|")
        bench.text.flush()
    bench.text.write("\n")
    shown = bench.take()
    assert shown[0] == "  0%|"
    assert shown[-1] == "100%|"
    assert 5 <= len(shown) <= 8
    for step in range(101):  # another kind goes back afterwards
        bench.clock.now += 0.05
        print(step, end="\r", file=bench.text)
    assert bench.held() == "100"
    print("ready", file=bench.text)
    shown = bench.take()
    assert shown[-1] == "ready"
    assert 5 <= len(shown) <= 8


def test_a_child_writes_what_it_flushes_and_nothing_of_its_parents(bench: Bench) -> None:
    print("of the parent", end="", file=bench.text)
    bench.printed.in_child()
    for word in ("a", "b"):
        print(word, end="", flush=True, file=bench.text)
    assert bench.take() == ["a", "b"]
    assert bench.held() == "of the parent"


def test_bytes_that_are_cut_anywhere_come_out_whole(bench: Bench) -> None:
    data = "ä\u20ac\U0001f600 x\n".encode() * 20 + b"\xff\xfe\n"
    draw = random.Random(5)
    at = 0
    while at < len(data):
        step = draw.randint(1, 4)
        bench.printed.write(data[at : at + step])
        at += step
    assert bench.take() == ["ä\u20ac\U0001f600 x"] * 20 + ["\\xff\\xfe"]


def test_what_never_ends_is_written_in_pieces_and_odd_text_is_no_error(bench: Bench) -> None:
    print("x" * (LONGEST + 1), end="", file=bench.text)
    print("half a pair \ud800", file=bench.text)
    print("y" * 5000, end="", file=bench.text)
    assert [len(line) for line in bench.take()] == [LONGEST + 1, len("half a pair \\ud800")]
    assert bench.held() == "y" * (words.SLOT - words.LENGTH.size)


def test_it_is_a_stream_like_any_other(bench: Bench) -> None:
    bench.text.reconfigure(line_buffering=True)
    assert (bench.text.name, bench.text.fileno(), bench.text.isatty()) == ("<stdout>", 1, False)
    wrapped = io.TextIOWrapper(bench.text.buffer, encoding="utf-8", write_through=True)
    print("wrapped", file=wrapped)
    wrapped.detach()
    assert bench.printed.write(memoryview(b"view\n")) == 5
    assert bench.take() == ["wrapped", "view"]
    with pytest.raises(io.UnsupportedOperation):
        bench.text.read()
    bench.text.close()
    with pytest.raises(ValueError, match="closed"):
        print("x", file=bench.text)


def test_a_file_of_words_that_is_none_is_no_word(tmp_path: Path) -> None:
    assert words.read(tmp_path / "nothing") == {}
    (tmp_path / "torn").write_bytes(b"\xff\xff\xff\xff" + bytes(20))
    assert words.read(tmp_path / "torn") == {}
    (tmp_path / "long").write_bytes(b"\xff\xff\xff\xff" + b"a" * (words.SLOT - 4) + bytes(words.SLOT))
    assert words.read(tmp_path / "long") == {"stdout": "a" * (words.SLOT - 4)}
