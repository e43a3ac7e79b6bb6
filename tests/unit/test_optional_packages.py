"""Packages that only some handlers need: imported when one of those loads, and else its extra is named."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.sounds import read_other
from serving.errors import ModelError, UnsupportedMediaType
from serving.handler import Handler

ROOT = Path(__file__).parent.parent.parent
NAMES = [path.stem for path in sorted((ROOT / "handlers").glob("*.py")) if path.stem != "__init__"]
OPTIONAL = ["PIL", "transformers", "soundfile", "sklearn", "scipy", "torchvision", "pandas"]


def test_no_handlers_module_imports_one() -> None:
    modules = ", ".join(f"handlers.{name}" for name in NAMES)
    code = f"import {modules}, sys; print([name for name in {OPTIONAL} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("handler", "package", "extra"),
    [
        ("image_classification:ImageClassificationHandler", "PIL.Image", "images"),
        ("object_detection:ObjectDetectionHandler", "PIL.Image", "images"),
        ("text_classification:TextClassificationHandler", "transformers", "text"),
        ("embeddings:EmbeddingsHandler", "transformers", "text"),
        ("generation:GenerationHandler", "transformers", "text"),
    ],
)
def test_a_handler_whose_package_is_missing_names_the_extra(
    tmp_path: Path, handler: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = handler.partition(":")
    made: Handler = getattr(importlib.import_module(f"handlers.{module}"), name)()
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=rf"needs {package}: pip install 'serving\[{extra}\]'"):
        made.load(tmp_path, "cpu")


def test_sounds_that_need_a_package_name_it_and_wav_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UnsupportedMediaType, match=r"audio/flac needs serving\[audio\]"):
        read_other(b"fLaC", "audio/flac")


@pytest.mark.parametrize("name", NAMES)
def test_a_handler_is_short_enough_to_be_read_before_it_is_subclassed(name: str) -> None:
    assert len((ROOT / "handlers" / f"{name}.py").read_text().splitlines()) <= 150
