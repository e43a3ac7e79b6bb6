"""Models are found by name below the store and nowhere else; archives are unpacked once."""

from __future__ import annotations

import os
import tarfile
import time
import zipfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config.config import load
from serving.errors import BadArchive, BadModel, BadRequest, ModelNotFound
from serving.model.names import ARCHIVES, model_name, target_name
from serving.supervisor.store.artifact import artifact
from serving.supervisor.store.diskcache import PARTIAL, Cost, DiskCache
from serving.supervisor.store.repository import ModelRepository

TOML = 'handler = "a:B"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    return root


def repository(root: Path, in_use: bool = False, **settings: str) -> ModelRepository:
    variables = {"SERVING_MODEL_STORE": str(root)} | {
        f"SERVING_{name.upper()}": text for name, text in settings.items()
    }
    (root.parent / "cache").mkdir(exist_ok=True)
    return ModelRepository(load(variables), DiskCache(root.parent / "cache"), lambda _: in_use)


def folder(root: Path, name: str, toml: str = TOML) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "serving.toml").write_text(toml)
    return path


def archive(root: Path, name: str, inside: str = "", toml: str = TOML) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    source = root.parent / "serving.toml"
    source.write_text(toml)
    if name.endswith((".mar", ".zip")):
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.write(source, f"{inside}serving.toml")
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.add(source, f"{inside}serving.toml")
    return path


def test_target_model_is_taken_as_it_is() -> None:
    for text in ("a", "a.tar.gz", "a.mar", "team/a.zip", "v1.2", "a.tar"):
        assert target_name(text) == text


HOSTILE = [
    "",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "/a",
    "a//b",
    "a/",
    ".hidden",
    "a/.git",
    "a\\b",
    "..\\a",
    "%2e%2e%2fa",
    "..%2fa",
    "a\0b",
    "a\nb",
    "ü",
    "a" * 256,
    "$(id)",
    "a;b",
    "*",
    " a",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_none_are_refused_by_naming_the_header(name: str) -> None:
    with pytest.raises(BadRequest, match="X-Amzn-SageMaker-Target-Model"):
        target_name(name)
    with pytest.raises(BadRequest):
        model_name(name)


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "/", "%2f", "\\", "\0", "~"])).map("".join))
def test_no_name_leaves_the_store(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    base = tmp_path_factory.mktemp("base")
    (base / "store").mkdir()
    folder(base, "a")
    found = repository(base / "store")
    with pytest.raises((BadRequest, ModelNotFound)):
        found.find(target_name(text))


def test_a_link_that_leaves_the_store_is_refused_and_one_inside_is_followed(root: Path) -> None:
    folder(root.parent, "outside")
    (root / "out").symlink_to(root.parent / "outside")
    folder(root, "a")
    (root / "alias").symlink_to(root / "a")
    with pytest.raises(BadRequest, match="leaves the model store"):
        repository(root).find("out")
    assert repository(root).find("alias") == root / "alias"


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_an_archive_is_found_by_its_name_and_unpacked(root: Path, suffix: str) -> None:
    archive(root, f"team/a{suffix}")
    found = repository(root)
    model = found.open("team/a", found.find("team/a"))
    assert (model.handler, model.url) == ("a:B", str(root / f"team/a{suffix}"))
    assert Path(model.path, "serving.toml").read_text() == TOML


def test_a_folder_wins_over_an_archive_of_its_name(root: Path) -> None:
    folder(root, "a")
    archive(root, "a.tar.gz")
    assert repository(root).find("a") == root / "a"


def test_a_single_top_level_folder_is_entered(root: Path) -> None:
    archive(root, "a.tar.gz", inside="a-v1/")
    found = repository(root)
    assert found.open("a", found.find("a")).path.endswith("/a-v1")


def test_an_archive_is_unpacked_once_and_the_state_before_goes_when_it_changes(root: Path) -> None:
    path = archive(root, "a.tar.gz")
    found = repository(root)
    first = found.open("a", path)
    mark = Path(first.path, "mark")
    mark.touch()
    assert found.open("a", path).path == first.path
    assert mark.exists()
    archive(root, "a.tar.gz", toml=TOML + "threads = 2\n")
    second = found.open("a", path)
    assert (second.threads, second.digest != first.digest) == (2, True)
    assert [entry.name for entry in Path(second.path).parent.glob("[!.]*")] == [second.digest]


def test_a_state_that_is_in_use_stays(root: Path) -> None:
    path = archive(root, "a.tar.gz")
    found = repository(root, in_use=True)
    first = found.open("a", path)
    archive(root, "a.tar.gz", toml=TOML + "threads = 2\n")
    found.open("a", path)
    assert Path(first.path).is_dir()


def test_a_bad_archive_is_refused_and_leaves_nothing(root: Path) -> None:
    (root / "a.tar.gz").write_bytes(b"\x1f\x8b no")
    found = repository(root)
    with pytest.raises(BadArchive):
        found.open("a", found.find("a"))
    assert [entry for entry in (root.parent / "cache").rglob("*") if entry.name.startswith(PARTIAL)] == []


def test_the_limits_come_from_the_settings(root: Path) -> None:
    archive(root, "a.tar.gz")
    found = repository(root, archive_max_bytes="4")
    with pytest.raises(BadArchive, match="more than 4 bytes"):
        found.open("a", found.find("a"))


def test_the_models_of_the_store_are_listed(root: Path) -> None:
    folder(root, "b")
    folder(root, "team/c")
    archive(root, "a.tar.gz")
    archive(root, "team/d.mar")
    (root / "platform" / "model").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / ".hidden").mkdir()
    (root / "notes.txt").touch()
    assert repository(root).names() == ["a", "b", "platform", "team/c", "team/d"]
    assert repository(root / "absent").names() == []


@pytest.mark.parametrize("url", ["relative", "/proc/self/root", "/dev/shm", "/sys", "/x/../etc"])
def test_addresses_that_are_no_models_are_refused(root: Path, url: str) -> None:
    config = load({"SAGEMAKER_MULTI_MODEL": "true", "SERVING_MODEL_STORE": str(root)})
    found = ModelRepository(config, DiskCache(root.parent), lambda _: False)
    with pytest.raises(BadRequest, match="url"):
        found.locate("a", url)


def test_an_address_outside_the_store_is_the_platforms_alone(root: Path) -> None:
    elsewhere = folder(root.parent, "elsewhere")
    with pytest.raises(BadRequest, match="not below the model store"):
        repository(root).locate("a", str(elsewhere))
    assert repository(root, multi_model="true").locate("a", str(elsewhere)) == elsewhere
    with pytest.raises(ModelNotFound):
        repository(root, multi_model="true").locate("a", str(elsewhere / "no"))


def test_a_digest_changes_with_any_file_but_not_with_what_python_leaves_behind(root: Path) -> None:
    path = folder(root, "a")
    before = artifact(path).digest
    (path / "code" / "__pycache__").mkdir(parents=True)
    (path / "code" / "__pycache__" / "x.pyc").touch()
    assert artifact(path).digest == before
    (path / "code" / "x.py").touch()
    changed = artifact(path).digest
    assert changed != before
    os.utime(path / "serving.toml", (1, 1))
    assert artifact(path).digest not in (before, changed)
    with pytest.raises(BadModel):
        artifact(root / "absent")


def test_a_folder_that_is_no_model_is_refused_before_everything_below_it_is_looked_at(root: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ModelNotFound, match="where no model is"):
        repository(root).open("all", Path("/"))
    assert time.monotonic() - started < 1.0


def test_pins_come_from_the_model_and_from_the_settings(root: Path) -> None:
    folder(root, "a", TOML + "pin = true\n")
    folder(root, "b")
    folder(root, "c")
    found = repository(root, pin="b")
    assert [found.open(name, found.find(name)).pin for name in "abc"] == [True, True, False]


def test_costs_are_remembered_by_artifact_and_kind_of_device(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    assert cache.recall("d", "cpu") is None
    cache.learn("d", "cpu", Cost(1, 2, 3))
    assert cache.recall("d", "cpu") == Cost(1, 2, 3)
    assert cache.recall("d", "cuda:0") is None
    cache.learn("d", "cuda:0", Cost(4, 5, 6))
    assert DiskCache(tmp_path).recall("d", "cuda:1") == Cost(4, 5, 6)
    (tmp_path / "costs" / "d-cpu").write_bytes(b"{")
    assert cache.recall("d", "cpu") is None
    assert msgspec.json.decode((tmp_path / "costs" / "d-cuda").read_bytes()) == {"host": 4, "peak": 5, "device": 6}


def test_what_is_kept_of_models_that_are_no_more_is_swept(root: Path) -> None:
    config = load({"SERVING_MODEL_STORE": str(root)})
    cache = DiskCache.open(root.parent)
    found = ModelRepository(config, cache, lambda _: False)
    kept, removed = archive(root, "kept.tar.gz"), archive(root, "removed.tar.gz")
    folders = [Path(found.open("m", path).path) for path in (kept, removed)]
    removed.unlink()
    for name in ("old", "fresh", "used"):
        cache.learn(name, "cpu", Cost(1, 2, 3))
    for name in ("old", "used"):
        os.utime(cache.path / "costs" / f"{name}-cpu", (0, 0))
    cache.recall("used", "cpu")
    cache.close()
    cache = DiskCache.open(root.parent)
    assert [folder.exists() for folder in folders] == [True, False]
    assert len(list((cache.path / "models").iterdir())) == 1
    assert [cache.recall(name, "cpu") is not None for name in ("old", "fresh", "used")] == [False, True, True]
    kept.unlink()
    assert list((DiskCache.open(root.parent).path / "models").iterdir()) == []
