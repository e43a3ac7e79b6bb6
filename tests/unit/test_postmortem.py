"""Reports of workers' ends: what a worker leaves behind, and the files that are made of it, in whatever folder."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest

from serving.postmortem import blackbox
from serving.postmortem.blackbox import ROOM, SLOT, Contents
from serving.postmortem.curves import MemoryCurves
from serving.postmortem.folder import ReportFolder
from serving.postmortem.report import EVENT, Batch, Reason, Report, Seen, read
from serving.postmortem.stacks import innermost
from serving.postmortem.versions import versions
from serving.postmortem.writer import GPU_WAIT, PENDING, ReportWriter
from serving.request import Request
from serving.system import log


def report(number: int = 1, **fields: Any) -> Report:
    id = f"r-00000000-{number}"
    plain = Report(report=id, at="now", reason=Reason.CRASH, cause="signal SIGSEGV", worker=5, row=0, epoch=1)
    return msgspec.structs.replace(plain, **fields)


# The black box.


def test_what_a_worker_has_noted_is_read_after_it(tmp_path: Path) -> None:
    box = blackbox.make(tmp_path / "box")
    for number in range(3):
        box.note(1 << 62 | number, Request(b"x" * number, "text/plain", request_id=f"id-{number}"), 10.0 + number)
    box.enter([numpy.zeros((3, 4)), numpy.zeros((5, 4))])
    box.see("code/m.py:7 in predict", 12.5)
    assert blackbox.read(tmp_path / "box", 13.0) == Contents(
        [Seen(1 << 62 | number, f"id-{number}", "text/plain", number, 3.0 - number) for number in (2, 1, 0)],
        Batch(2, [3, 4]),
        "code/m.py:7 in predict",
        0.5,
    )
    assert (tmp_path / "box").stat().st_mode & 0o077 == 0


def test_only_the_latest_requests_are_kept(tmp_path: Path) -> None:
    box = blackbox.make(tmp_path / "box")
    for number in range(ROOM + 10):
        box.note(number, Request(), float(number))
    found = [one.id for one in blackbox.read(tmp_path / "box", 1e6).requests]
    assert found == list(range(ROOM + 9, 9, -1))


def test_texts_that_are_too_long_are_cut(tmp_path: Path) -> None:
    box = blackbox.make(tmp_path / "box")
    box.note(7, Request(b"", "text/ä" + "x" * 1000, request_id="i" * 1000), 1.0)
    box.see("a/" * 500 + "m.py:7 in predict", 1.0)
    found = blackbox.read(tmp_path / "box", 1.0)
    assert found.requests == [Seen(7, "i" * 64, ("text/?" + "x" * 64)[:64], 0, 0.0)]
    assert found.place.endswith("/m.py:7 in predict")


class Odd:
    def __init__(self, shape: object) -> None:
        self.shape = shape


class Raising:
    @property
    def shape(self) -> object:
        raise RuntimeError("no")


@pytest.mark.parametrize("sample", [{}, Odd(len), Odd("x" * 1000), Odd([1] * 1000), Odd({"a": 1}), Odd(5), Raising()])
def test_a_sample_may_be_anything(tmp_path: Path, sample: object) -> None:
    box = blackbox.make(tmp_path / "box")
    box.enter([sample])
    assert blackbox.read(tmp_path / "box", 1.0).batch in (Batch(1), None)
    box.enter([numpy.zeros(2)])
    assert blackbox.read(tmp_path / "box", 1.0).batch == Batch(1, [2])


def test_a_box_that_user_code_has_written_into_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    box = blackbox.make(tmp_path / "box")
    box.note(1, Request(b"", "a/b", request_id="first"), 1.0)
    box.note(2, Request(b"", "a/b", request_id="second"), 1.0)
    with (tmp_path / "box").open("r+b") as file:
        file.write(os.urandom(3 * SLOT))
    assert [one.request_id for one in blackbox.read(tmp_path / "box", 1.0).requests] == ["second"]
    (tmp_path / "box").write_bytes(b"\x93\x01")
    assert blackbox.read(tmp_path / "box", 1.0) == Contents()
    assert blackbox.read(tmp_path / "none", 1.0) == Contents()


# Stacks.

CODE = "import ctypes\ndef predict():\n    ctypes.string_at(0)\npredict()\n"


def test_the_handlers_line_is_found_in_the_stacks(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "m.py").write_text(CODE)
    command = [sys.executable, "-X", "faulthandler", str(tmp_path / "code" / "m.py")]
    stacks = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert innermost(stacks, [str(tmp_path)], lambda _: True) == "code/m.py:3 in predict"
    assert innermost(stacks, [], lambda file: "ctypes" in file) == "code/m.py:3 in predict"
    assert innermost(stacks, ["/elsewhere"], lambda _: True) == ""


TWO = """Fatal Python error: Aborted

Thread 0x00007f0000000001 [decode_0] (most recent call first):
  File "/usr/lib/python3/threading.py", line 355 in wait
  File "/m/code/m.py", line 3 in decode

Current thread 0x00007f0000000002 (most recent call first):
  File "/m/code/lib/site-packages/fast.py", line 9 in go
  File "/m/code/m.py", line 7 in predict
  File "/usr/lib/python3/serving/engine.py", line 1 in run
"""


def test_the_thread_that_the_signal_met_comes_first() -> None:
    assert innermost(TWO, ["/m"], lambda _: True) == "code/m.py:7 in predict"
    assert innermost(TWO.replace("/m/code/m.py", "/usr/x.py", 2), ["/m"], lambda _: True) == ""
    assert innermost(TWO.replace("line 7", "line x"), ["/m"], lambda _: True) == "code/m.py:3 in decode"
    assert innermost("", ["/m"], lambda _: False) == ""


# Files.


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write(folder: ReportFolder, number: int, size: int = 10, bodies: bytes = b"") -> None:
    folder.write(f"r-00000000-{number}", b"x" * size, bodies)
    for path in folder.path.glob(f"r-00000000-{number}.*"):
        os.utime(path, (number, number))


def test_only_the_newest_reports_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.json").touch()
    folder = ReportFolder(tmp_path, count=3)
    for number in range(1, 6):
        write(folder, number, bodies=b"b" * (number % 2))
    both = {"r-00000000-3.json", "r-00000000-3.bodies", "r-00000000-5.json", "r-00000000-5.bodies"}
    assert names(tmp_path) == {"mine.json", "r-00000000-4.json", *both}
    assert [one.id for one in folder.reports()] == [f"r-00000000-{number}" for number in (5, 4, 3)]


def test_their_sizes_are_bounded_together(tmp_path: Path) -> None:
    folder = ReportFolder(tmp_path, total=100)
    for number in range(1, 5):
        write(folder, number, 10, b"b" * 30)
    assert [one.size for one in folder.reports()] == [40, 40]
    write(folder, 9, 1000)
    assert [one.id for one in folder.reports()] == ["r-00000000-9"]


def test_files_are_private_and_the_folder_is_made(tmp_path: Path) -> None:
    folder = ReportFolder(tmp_path / "a" / "b")
    write(folder, 1, bodies=b"b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("r-00000000-1.json", ".r-00000000-1.json.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    write(ReportFolder(tmp_path), 1)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "r-00000000-1.json").read_text() == "x" * 10


FULL = """
import resource, sys
from pathlib import Path
from serving.postmortem.folder import ReportFolder
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = ReportFolder(Path(sys.argv[1]))
try:
    folder.write("r-00000000-2", b"x" * 500, b"x" * 5000)
except OSError:
    pass
try:
    folder.write("r-00000000-3", b"x" * 5000, b"x" * 500)
except OSError:
    sys.exit(7)
"""


def test_where_there_is_no_room_nothing_is_left(tmp_path: Path) -> None:
    write(ReportFolder(tmp_path), 1)
    assert subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=False).returncode == 7
    assert names(tmp_path) == {"r-00000000-1.json"}


# The thread.


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), log.fields_of(record)))

    def of(self, message: str) -> list[dict[str, Any]]:
        return [fields for text, fields in self.found if text == message]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    log.logger.addHandler(handler)
    yield handler
    log.logger.removeHandler(handler)


def written(folder: Path | None, *reports: Report) -> None:
    writer = ReportWriter(None if folder is None else ReportFolder(folder))
    writer.start()
    for one in reports:
        writer.submit(one)
    writer.close()


def test_a_report_is_an_event_and_a_file_with_the_same_content(tmp_path: Path, lines: Lines) -> None:
    written(tmp_path, report(where="code/m.py:7 in predict"))
    [event] = lines.of(EVENT)
    found = read((tmp_path / "r-00000000-1.json").read_bytes())
    assert found == read(msgspec.json.encode(event))
    assert found == report(where="code/m.py:7 in predict", versions=versions())
    assert found.versions["python"] == sys.version.split()[0]
    assert not {"time", "level", "role", "pid", "message"} & event.keys()


def test_without_a_folder_it_is_the_event_alone(lines: Lines) -> None:
    written(None, report())
    assert len(lines.of(EVENT)) == 1


@pytest.mark.parametrize("place", ["file", "below a file", "proc", "loop"])
def test_a_folder_that_cannot_be_written_to_costs_one_warning(tmp_path: Path, lines: Lines, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    places = {"proc": Path("/proc/1/reports"), "below a file": tmp_path / "file" / "reports"}
    written(places.get(place, tmp_path / place), report(1), report(2), report(3))
    assert len(lines.of("reports cannot be written")) == 1
    assert [one["report"] for one in lines.of(EVENT)] == [report(number).report for number in (1, 2, 3)]


class Slow:
    """A disk that stands still."""

    path = Path("/slow")

    def __init__(self) -> None:
        self.calls = 0

    def write(self, id: str, text: bytes, bodies: bytes = b"") -> None:
        self.calls += 1
        time.sleep(30)


def test_a_disk_that_stands_still_holds_up_nobody() -> None:
    writer = ReportWriter(Slow())
    writer.start()
    began = time.monotonic()
    for number in range(PENDING * 2):
        writer.submit(report(number))
    assert time.monotonic() - began < 0.5
    writer.close()
    assert time.monotonic() - began < 5


def test_an_error_of_the_gpu_is_waited_for(lines: Lines) -> None:
    now = 100.0
    writer = ReportWriter(clock=lambda: now)
    writer.on_xid("cuda:0", 13)
    writer.on_xid("cuda:1", 79)
    writer.submit(report(device="cuda:0"))
    writer.prepare()
    writer.turn(now)
    assert not lines.of(EVENT)
    now += 0.5
    writer.on_xid("cuda:0", 31)
    writer.turn(now + GPU_WAIT)
    assert lines.of(EVENT)[0]["xids"] == [(0.0, 13), (-0.5, 31)]


def test_a_report_has_the_curve_of_its_worker_at_the_servers_end_too(lines: Lines) -> None:
    now = 100.0
    writer = ReportWriter(clock=lambda: now)
    writer.prepare()
    writer.watch([os.getpid()])
    writer.turn(now)
    now += 1
    writer.submit(report(worker=os.getpid()))
    writer.finish(math.inf)
    [[(at, size)]] = [one["curve"] for one in lines.of(EVENT)]
    assert (at, size > 1 << 20) == (1.0, True)


def test_memory_is_watched_from_outside(tmp_path: Path) -> None:
    curves = MemoryCurves()
    for second in range(80):
        curves.sample([os.getpid(), 1 << 22], float(second))
    curve = curves.take(os.getpid(), 80.0)
    assert [at for at, _ in curve] == [float(second) for second in range(60, 0, -1)]
    assert all(size > 1 << 20 for _, size in curve)
    assert curves.take(os.getpid(), 80.0) == []
    curves.sample([os.getpid()], 100.0)
    curves.sample([], 200.0)
    assert curves.take(os.getpid(), 200.0) == [], "of a process that may be gone for long"
