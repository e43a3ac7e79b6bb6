"""What subclasses of the ready handlers look like to type checkers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from tests import typed

ROOT = Path(__file__).parent.parent.parent
# Torch's own types take half a minute to read, and say nothing of ours.
CONFIG = """
[mypy]
strict = true
[mypy-torch.*,transformers.*,PIL.*,numpy.*,soundfile.*,uvloop.*]
follow_imports = skip
ignore_missing_imports = true
[mypy-serving.*,handlers.*]
follow_imports = silent
"""


def test_subclasses_that_override_what_people_override_are_sound_under_mypy(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path / "cache"]
    checked = subprocess.run([*command, typed.__file__], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_options_of_a_subclass_are_those_of_its_own_load() -> None:
    assert list(inspect.signature(typed.Birds().load).parameters) == ["model_dir", "device", "region"]
    assert "topk" in inspect.signature(typed.ImageClassificationHandler().load).parameters
