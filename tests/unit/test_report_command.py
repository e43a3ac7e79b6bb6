"""``serving report``: the newest report, the one named, or the last in a log, for people and for machines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving.cli import cli
from serving.desk.postmortem import bars
from serving.postmortem.folder import ReportFolder
from serving.postmortem.report import EVENT, Batch, Reason, Report, Seen, read

HANG = Report(
    report="r-1a2b3c4d-17",
    at="2026-11-28T16:00:00.000+00:00",
    reason=Reason.HANG,
    cause="a call of its handler took too long: signal SIGABRT",
    worker=42,
    row=0,
    epoch=17,
    model="digits",
    device="cuda:0",
    phase="ready",
    signal="SIGABRT",
    where="code/digits.py:14 in predict",
    stacks='Current thread 0x01 (most recent call first):\n  File "/m/code/digits.py", line 14 in predict\n',
    running=[Seen(1, "one\x1b[2J", "application/json", 28, 60.05)],
    last=[Seen(number) for number in range(12)],
    batch=Batch(1, [3, 224, 224]),
    memory=100 << 20,
    peak=120 << 20,
    device_memory=1 << 30,
    curve=[(59.0, 10 << 20), (1.0, 80 << 20)],
    oom_kills=2,
    xids=[(0.5, 13), (-1.0, 31)],
    versions={"python": "3.12.1", "torch": "2.13"},
)
LOAD = Report(
    report="r-1a2b3c4d-3",
    at="2026-11-28T15:00:00.000+00:00",
    reason=Reason.FAILED_LOAD,
    cause="exit code 0",
    error="OSError: no weights (code/digits.py:7 in load)",
    worker=41,
    row=0,
    epoch=3,
    model="digits",
    phase="loading",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reports = ReportFolder(tmp_path / "reports")
    for number, one in enumerate([LOAD, HANG]):
        reports.write(one.report, one.encode())
        os.utime(reports.path / f"{one.report}.json", (number, number))
    return reports.path


def run(*arguments: str, folder: Path | None = None, text: str = "") -> Result:
    variables = {"SERVING_REPORT_DIR": "" if folder is None else str(folder)}
    return CliRunner().invoke(cli, ["report", *arguments], input=text, env=variables)


def test_the_newest_is_told_to_people(folder: Path) -> None:
    result = run(folder=folder)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == (
        "A process of model digits was ended by the server, at code/digits.py:14 in predict: "
        "a call of its handler took too long: signal SIGABRT."
    )
    for expected in (
        "worker      pid 42, row 0, epoch 17, cuda:0, ready",
        "code        code/digits.py:14 in predict",
        "working on  one?[2J: 28 bytes of application/json, begun 60.05 s before the end",
        "last batch  1 samples, the first of shape [3, 224, 224]",
        "before      0: size unknown",
        "            and 2 more",
        "memory      100.0 MiB of its own, at most 120.0 MiB, 1024.0 MiB on cuda:0",
        "            resident ▂█ 10.0 MiB to 80.0 MiB over the last 59 s",
        "            the kernel has killed 2 processes of this container for memory",
        "Xid         13, 0.5 s before the end",
        "Xid         31, 1 s after it",
        "versions    python 3.12.1, torch 2.13",
        '  File "/m/code/digits.py", line 14 in predict',
    ):
        assert expected in lines
    assert [line for line in lines if line.startswith("Next: ")]


def test_one_is_found_by_its_id_or_its_file(folder: Path) -> None:
    for arguments, where in ((("r-1a2b3c4d-3",), folder), ((str(folder / "r-1a2b3c4d-3.json"),), None)):
        first = run(*arguments, folder=where).output.splitlines()[0]
        error = "OSError: no weights (code/digits.py:7 in load)"
        assert first == f"A process of model digits could not load its model: {error}."
    assert "r-1a2b3c4d-3" in run("r-1a2b3c4d-3", "--dir", str(folder)).output


def test_machines_get_the_file_itself(folder: Path) -> None:
    assert read(run("--json", folder=folder).output) == HANG


def test_all_are_listed_the_newest_first(folder: Path) -> None:
    lines = run("--list", folder=folder).output.splitlines()
    assert [line.split()[0] for line in lines] == ["report", HANG.report, LOAD.report]


def test_the_last_one_in_a_log_is_told(folder: Path) -> None:
    lines = [
        "2026-11-28 an older line",
        *(f"prefix {json.dumps({'level': 'error', 'message': EVENT, **one.fields()})}" for one in (HANG, LOAD)),
        f'{{"message": "{EVENT}", torn',
        '{"message": "a worker ended"}',
    ]
    assert read(run("-", "--json", text="\n".join(lines)).output) == LOAD


@pytest.mark.parametrize(
    ("arguments", "text", "complaint"),
    [
        ((), "", "no folder of reports"),
        (("r-1",), "", "no folder of reports"),
        (("--list",), "", "no folder of reports"),
        (("-",), "nothing here", "the log has no report"),
        (("--dir", "/nonexistent"), "", "No such file"),
        (("--dir", "/nonexistent", "r-1"), "", "has no report r-1"),
        (("--dir", "{empty}"), "", "has no reports"),
        (("{empty}/other.json",), "", "is no report"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, arguments: tuple[str, ...], text: str, complaint: str) -> None:
    (tmp_path / "other.json").write_text("[]")
    result = run(*(one.format(empty=tmp_path) for one in arguments), text=text)
    assert result.exit_code == 1
    assert complaint in result.output


def test_a_curve_is_drawn_from_nothing_to_its_top() -> None:
    assert bars([0, 50, 100]) == "▁▅█"
