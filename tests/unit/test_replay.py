"""``serving replay``: a batch as a dead worker had it is kept, run again in a process of its own, and halved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from serving.cli import cli
from serving.config import config as configuration
from serving.desk.replay import GRACE, Replay, guilty
from serving.errors import ModelError
from serving.model.folder import read_model
from serving.model.model import Model
from serving.postmortem import blackbox, bodyring
from serving.postmortem.bodyring import KEPT
from serving.postmortem.recording import Kept, Recording, read
from serving.request import Request

MODEL = Model("m", "/m", "/m/code", "a:B", 60.0, 1, "cpu", 1, 100)
HANDLER = """
import ctypes, json, time
from serving import BatchPolicy, Handler

class Mortal(Handler):
    policy = BatchPolicy(max_size=8)

    def load(self, model_dir, device, fails=False):
        if fails:
            raise OSError("no weights")

    def decode(self, request):
        return json.loads(bytes(request.body))

    def predict(self, batch):
        print("a batch of", len(batch))
        if "crash" in batch or {"first", "second"} <= set(batch):
            ctypes.string_at(0)  # the line
        if "hang" in batch:
            time.sleep(60)
        if "raise" in batch:
            raise ValueError("no")
        return batch
"""
LINE = next(number for number, line in enumerate(HANDLER.splitlines(), 1) if line.endswith("# the line"))


def kept(path: Path, *ids: int) -> list[Kept]:
    left = bodyring.left_by(path, ids, MODEL)
    assert left is not None
    data = left.recording("r-00000000-1")
    (path.parent / "found").write_bytes(data)
    return read(path.parent / "found").requests if data else []


def request(text: str, **fields: object) -> Request:
    return msgspec.structs.replace(Request(text.encode(), "application/json", request_id=f"id-{text}"), **fields)


# What is kept.


def test_a_request_is_kept_with_all_that_the_handler_saw(tmp_path: Path) -> None:
    box = blackbox.make(tmp_path / "box", tmp_path / "ring")
    fields = {"sagemaker": {"custom-attributes": "a=b", "session-id": "s"}, "path": "/x", "headers": {"x-own": "1"}}
    one = request("one", accept="text/plain", content_encoding="gzip", **fields)
    box.note(1 << 50, one, 1.0)
    box.note(2, request("two"), 1.0)
    found = kept(tmp_path / "ring", 2, 1 << 50, 3)
    assert [one.id for one in found] == [2, 1 << 50], "in the order in which they ran"
    again = found[1].request()
    assert dict(again.sagemaker) == {"custom-attributes": "a=b"}, "its session is lost"
    for name in ("body", "content_type", "accept", "request_id", "path", "content_encoding", "headers"):
        assert getattr(again, name) == getattr(one, name)
    assert [one.id for one in blackbox.read(tmp_path / "box", 1.0).requests] == [1 << 50, 2]
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "box", tmp_path / "ring")} == {0}


def test_bodies_are_bounded_and_the_latest_ones_are_kept(tmp_path: Path) -> None:
    ring = bodyring.make(tmp_path / "ring", 1000)
    for number in range(50):
        ring.keep(number, Request(b"x" * (number * 7 % 90)))
    ring.keep(99, Request(b"x" * 1000))
    found = [one.id for one in kept(tmp_path / "ring", *range(100))]
    assert found == list(range(50 - len(found), 50))
    assert len(found) > 5
    assert all(len(one.body) == one.id * 7 % 90 for one in kept(tmp_path / "ring", *range(100)))


def test_more_requests_than_the_index_has(tmp_path: Path) -> None:
    ring = bodyring.make(tmp_path / "ring", 1 << 20)
    for number in range(KEPT + 3):
        ring.keep(number, Request(b"x"))
    assert [one.id for one in kept(tmp_path / "ring", 0, 2, 3, KEPT + 2)] == [3, KEPT + 2]


def test_a_ring_that_user_code_has_written_into_gives_what_is_whole(tmp_path: Path) -> None:
    ring = bodyring.make(tmp_path / "ring", 1000)
    ring.keep(1, Request(b"first"))
    ring.keep(2, Request(b"second"))
    data = (tmp_path / "ring").read_bytes()
    (tmp_path / "ring").write_bytes(data.replace(b"first", b"\xff" * 5).replace(b"/invocations", b"\xff" * 12, 1))
    assert [one.id for one in kept(tmp_path / "ring", 1, 2)] == [2]
    (tmp_path / "ring").write_bytes(os.urandom(len(data)))
    assert kept(tmp_path / "ring", 1, 2) == []
    (tmp_path / "ring").write_bytes(b"short")
    assert kept(tmp_path / "ring", 1) == []
    assert bodyring.left_by(tmp_path / "none", [1], MODEL) is None


# The replay.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "code" / "mortal.py").write_text(HANDLER)
    (model / "serving.toml").write_text('handler = "mortal:Mortal"\n')
    return model


def record(model: Path, *texts: str, **fields: object) -> Path:
    """Write a recording of requests with these JSON texts."""
    found = msgspec.structs.replace(read_model(model, "m", configuration.load({}), 1), **fields)
    requests = [Kept.of(number, request(f'"{text}"')) for number, text in enumerate(texts)]
    path = model.parent / "r-00000000-1.bodies"
    path.write_bytes(Recording("r-00000000-1", found, requests).encode())
    return path


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["replay", str(path), *arguments])


def test_what_goes_well_now_is_said(folder: Path) -> None:
    result = run(record(folder, "fine", "good"))
    assert result.exit_code == 0, result.output
    assert 'id-"fine": 6 bytes of application/json: 200 4 bytes' in result.output
    assert result.output.splitlines()[-1] == "all of it went well"


def test_what_crashed_crashes_again_at_the_same_line(folder: Path) -> None:
    path = record(folder, "fine", "crash")
    (folder.parent / "r-00000000-1.json").touch()
    result = run(path.with_suffix(".json"))
    assert result.exit_code == 1
    assert f"the process ended in its batch: signal SIGSEGV, at code/mortal.py:{LINE} in predict" in result.output
    assert "a batch of 2" in result.output


def test_the_member_at_fault_is_found_by_halves(folder: Path) -> None:
    result = run(record(folder, "fine", "good", "crash", "well"), "--bisect", "--sync")
    assert result.exit_code == 1
    fault = result.output.partition("at fault:\n")[2].splitlines()
    assert fault[0].split()[0] == 'id-"crash":'
    assert len(fault) == 2


def test_an_error_is_no_success(folder: Path) -> None:
    result = run(record(folder, "fine", "raise"))
    assert result.exit_code == 1
    assert 'id-"fine": 6 bytes of application/json: 200 4 bytes' in result.output
    assert 'id-"raise": 7 bytes of application/json: 500 handler_error ValueError: no (code/mortal.py:' in result.output
    assert "Traceback" in result.output


def test_what_hangs_is_ended(folder: Path) -> None:
    path = record(folder, "hang", timeout=0.5 - GRACE)
    trial = Replay(read(path), path, 60.0).run([0])
    assert trial.end == "the process ended in its batch: it took more than 0.5 s"
    assert trial.where.endswith(" in predict")


def test_a_load_that_fails_is_told_apart(folder: Path) -> None:
    result = run(record(folder, "fine", options={"fails": True}))
    assert result.exit_code == 1
    assert "the process ended in its load: exit code 1" in result.output
    assert "OSError: no weights" in result.output


def test_the_model_may_lie_elsewhere(folder: Path) -> None:
    path = record(folder, "fine", path="/nonexistent", code="/nonexistent/code")
    missing = run(path)
    assert missing.exit_code == 1
    assert "give --model FOLDER" in missing.output
    assert run(path, "--model", str(folder)).exit_code == 0


@pytest.mark.parametrize("data", [b"", b"{}", b"serving recording 1\n", b"serving recording 1\n\x93\x01", b"\x80"])
def test_what_is_no_recording_is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.bodies").write_bytes(data)
    with pytest.raises(ModelError, match="is no recording"):
        read(tmp_path / "x.bodies")


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ([{3}], [[3]]),
        ([{0}, {7}], [[0], [7]]),
        ([{2, 3}], [[2, 3]]),
        ([{0, 7}], [list(range(8))]),
        ([set()], [[number] for number in range(8)]),
    ],
)
def test_halving_finds_what_fails_by_itself(bad: list[set[int]], found: list[list[int]]) -> None:
    def fails(members: Sequence[int]) -> bool:
        return any(one <= set(members) for one in bad)

    assert [list(one) for one in guilty(range(8), fails)] == found
