"""``serving tune`` against a model whose times are known: it finds what they say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomlkit

from tests.e2e.server import model_folder


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "tune", str(folder), "--cores", "1", "--seconds", "0.6", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.slow
def test_it_measures_prints_draws_and_writes(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "steady:Steady", "# mine\nthreads = 2\n")
    (folder / "sample.json").write_text("[1.0]")
    done = run(folder, "--batch", "1,16", "--plot", str(tmp_path / "curve"))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    one, many = (float(line.split("|")[4].strip(" *").replace(",", "")) for line in lines[2:])
    assert 25 < one < 48, "20 ms and 1 ms for each"
    assert many > 5 * one
    written = (folder / "serving.toml").read_text()
    assert "# mine" in written
    assert tomlkit.parse(written)["batch"] == {"max_size": 16}
    assert tomlkit.parse(written)["threads"] == 2
    assert (tmp_path / "curve.svg").exists()
    assert (tmp_path / "curve.png").exists()


@pytest.mark.slow  # half a minute for what tests/unit/test_tune.py says of the choice
def test_with_a_latency_it_takes_what_keeps_it_and_writes_that_down(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "steady:Steady", "\n[options]\neach = 0.02\n")
    (folder / "sample.json").write_text("[1.0]")
    done = run(folder, "--batch", "1,64", "--latency-ms", "400")
    assert done.returncode == 0, done.stderr
    assert tomlkit.parse((folder / "serving.toml").read_text())["batch"] == {"max_size": 1, "max_latency_ms": 400.0}


def test_a_model_that_does_not_load_is_told_with_what_its_server_said(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "no_import:Nothing")
    shutil.copy(Path(__file__), folder / "sample.txt")
    before = (folder / "serving.toml").read_bytes()
    done = run(folder, "--batch", "1")
    assert done.returncode == 1
    assert "did not get ready" in done.stderr
    assert "importing no_import failed" in done.stderr
    assert (folder / "serving.toml").read_bytes() == before


def test_samples_that_fail_are_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "steady:Steady")
    (folder / "sample.json").write_text("not json")
    before = (folder / "serving.toml").read_bytes()
    done = run(folder, "--batch", "1")
    assert done.returncode == 1
    assert "were not answered with 200" in done.stderr
    assert (folder / "serving.toml").read_bytes() == before
