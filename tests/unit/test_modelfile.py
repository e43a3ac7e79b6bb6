"""Files of settings come with a model, and the supervisor reads them: none can take its memory or its stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config import load
from serving.errors import BadModel
from serving.folder import read_model
from serving.modelfile import LIMIT
from serving.supervisor.diskcache import DiskCache
from serving.supervisor.repository import ModelRepository

FILES = {
    "serving.toml": "#",
    "MAR-INF/MANIFEST.json": " ",
    "config.pbtxt": "#",
    "serving.properties": "#",
    "model-config.yaml": "#",
}
NESTED = {
    "serving.toml": "a = " + "[" * 100_000,
    "MAR-INF/MANIFEST.json": "[" * 100_000,
    "config.pbtxt": "a {" * 100_000,
    "model-config.yaml": "[" * 50_000,
}
MANIFEST = '{"model": {"handler": "image_classifier"}}'


def opened(tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path / "store" / "m"
    (folder / name).parent.mkdir(parents=True)
    if name == "model-config.yaml":
        (folder / "MAR-INF").mkdir()
        (folder / "MAR-INF" / "MANIFEST.json").write_text(MANIFEST)
    (folder / name).write_text(text)
    found = ModelRepository(load({"SERVING_MODEL_STORE": str(folder.parent)}), DiskCache(tmp_path), lambda _: True)
    found.open("m", found.find("m"))


@pytest.mark.parametrize("name", FILES)
def test_one_that_is_larger_than_anybody_would_write_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadModel, match=f"has more than {LIMIT} bytes"):
        opened(tmp_path, name, FILES[name] * (LIMIT + 1))


@pytest.mark.parametrize("name", NESTED)
def test_one_that_is_nested_without_end_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadModel):
        opened(tmp_path, name, NESTED[name])


def test_what_macos_writes_beside_each_file_is_not_taken_for_the_model(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "deep" / "mine"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("net.pt", "._net.pt", ".DS_Store"):
            (folder / name).touch()
    (tmp_path / "deep" / "__MACOSX").mkdir()
    (tmp_path / "deep" / "._mine").touch()
    for folder in (tmp_path, tmp_path / "deep"):
        assert read_model(folder, "m", load({}), 1).handler == "handlers.module:ModuleHandler"


def test_neither_is_it_by_the_handlers_that_look_for_a_file(tmp_path: Path) -> None:
    from handlers.module import choose_file
    from serving.worker import toolkit

    for name in ("net.pt", "._net.pt"):
        (tmp_path / name).write_bytes(b"no archive")
    assert choose_file(tmp_path, None) == tmp_path / "net.pt"
    with pytest.raises(Exception, match=r"net\.pt is no TorchScript file"):
        toolkit.default_model_fn(tmp_path, "cpu")
