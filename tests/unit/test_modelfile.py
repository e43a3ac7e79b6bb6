"""Files of settings come with a model, and the supervisor reads them: none can take its memory or its stack."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from serving.config.config import load
from serving.errors import BadModel
from serving.model.folder import read_model
from serving.model.modelfile import LIMIT, SHOWN, check_size, shown
from serving.supervisor.store.diskcache import DiskCache
from serving.supervisor.store.repository import ModelRepository

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


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
FAR_LARGER = {
    "where a number should be": BOMB + "batchSize: *a11\n",
    "where nobody looks": BOMB,
    "as keys and values": BOMB.replace("[", "{k: [").replace("]\n", "]}\n"),
    "one that holds itself": "batchSize: &a [*a]\n",
    "one that holds itself elsewhere": "more: &a {b: *a}\n",
}
LONG = "1" * 500_000
NUMBERS = {
    "serving.toml": f"timeout_s = {LONG}",
    "MAR-INF/MANIFEST.json": f'{{"model": {{"handler": {LONG}}}}}',
    "config.pbtxt": f"max_batch_size: {LONG}",
    "serving.properties": f"engine=Python\nbatch_size={LONG}",
    "model-config.yaml": f"batchSize: 0b{LONG}",
}


@pytest.mark.parametrize("name", FAR_LARGER)
def test_one_that_stands_for_far_more_than_it_holds_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadModel, match="stands for more than") as caught:
        opened(tmp_path, "model-config.yaml", FAR_LARGER[name])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_many_digits_is_refused_in_few_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadModel) as caught:
        opened(tmp_path, name, NUMBERS[name])
    assert len(str(caught.value)) < 1000


def test_references_that_repeat_a_little_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "x"
    check_size(path, yaml.safe_load("base: &b {a: 1}\none: *b\ntwo: {<<: *b, c: [*b, *b]}"))


VALUES = {"long": ["x" * 1000] * 1000, "deep": {"a": [[[[1]]]]}, "large": 10**10_000, "text": "y" * 10_000, "small": 7}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_in_a_message_is_short(name: str) -> None:
    assert 0 < len(shown(VALUES[name])) <= SHOWN + 1


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
    from handlers.built import choose_file
    from serving.adapters.toolkit import sagemaker_inference

    for name in ("net.pt", "._net.pt"):
        (tmp_path / name).write_bytes(b"no archive")
    assert choose_file(tmp_path, None) == tmp_path / "net.pt"
    with pytest.raises(Exception, match=r"net\.pt is no TorchScript file"):
        sagemaker_inference.default_model_fn(tmp_path, "cpu")
