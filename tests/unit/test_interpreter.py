"""Other interpreters are started so that no file of the folder they start in stands for a module."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from serving.system import interpreter

SHOW = "import json, sys; print(json.dumps([sys.argv[1:], sys.path, __name__, __spec__.name]))"


def run(place: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(interpreter.command(module, *arguments), cwd=place, capture_output=True, text=True)


def test_a_module_of_the_working_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('mine')")
    for name in ("json", "runpy", "serving", "msgspec"):
        (tmp_path / f"{name}.py").write_text("1 / 0")
    assert "No module named mine" in run(tmp_path, "mine").stderr
    done = run(tmp_path, "serving", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert run(tmp_path, "json.tool", "--help").returncode == 0


def test_arguments_arrive_and_the_package_is_found_where_it_is_though_last(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "told.py").write_text(SHOW)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = interpreter.command("told", "a", "b c")
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    arguments, path, name, spec = json.loads(told.stdout)
    assert (arguments, name, spec) == (["a", "b c"], "__main__", "told")
    assert str(tmp_path) not in path
    assert str(interpreter.ROOT) in path[1:]
