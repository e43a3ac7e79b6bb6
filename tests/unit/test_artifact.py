"""Two states of an artifact are told apart, however alike they look, and a copy is known as one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from serving.config.config import load
from serving.errors import BadArchive, BadModel, ModelFailed, ModelNotFound
from serving.supervisor.store.artifact import artifact, open_archive
from serving.supervisor.store.diskcache import PARTIAL, DiskCache
from serving.supervisor.store.repository import ModelRepository
from serving.supervisor.store.unpacking import unpack_now
from tests.unit.test_archives import tar


def packed(path: Path, text: str) -> Path:
    return tar(path, ("serving.toml", b'handler = "a:B"\n'), ("which.txt", text.encode()))


def same_outside(path: Path, text: str) -> None:
    """Another archive with the size and the time of the one that is there."""
    status = path.stat()
    packed(path.with_name("new"), text).replace(path)
    with path.open("ab") as file:
        file.truncate(max(status.st_size, path.stat().st_size))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


def repository(tmp_path: Path) -> ModelRepository:
    (tmp_path / "cache").mkdir(exist_ok=True)
    config = load({"SERVING_MODEL_STORE": str(tmp_path)})
    return ModelRepository(config, DiskCache(tmp_path / "cache"), lambda _: False)


def test_two_archives_of_one_size_and_time_are_two(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", "old-model")
    found = repository(tmp_path)
    first = found.open("a", path)
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    same_outside(path, "new-model")
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, time)
    second = found.open("a", path)
    assert second.digest != first.digest
    assert (Path(second.path) / "which.txt").read_text() == "new-model"
    assert (Path(repository(tmp_path).open("a", path).path) / "which.txt").read_text() == "new-model"


def test_a_folder_with_another_file_of_one_size_and_time_is_another(tmp_path: Path) -> None:
    file = tmp_path / "m" / "weights"
    file.parent.mkdir()
    file.write_bytes(b"old")
    before, status = artifact(tmp_path / "m"), file.stat()
    file.write_bytes(b"new")
    os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert artifact(tmp_path / "m").digest != before.digest


def test_a_copy_has_the_same_fingerprint_by_which_its_cost_is_known(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", "x")
    before = artifact(path)
    shutil.copy(path, tmp_path / "b")
    (tmp_path / "b").replace(path)
    after = artifact(path)
    assert (after.fingerprint, after.digest != before.digest) == (before.fingerprint, True)
    packed(path, "y")
    assert artifact(path).fingerprint != before.fingerprint


def test_what_was_unpacked_is_what_the_digest_tells_of_also_if_the_archive_is_replaced_meanwhile(
    tmp_path: Path,
) -> None:
    path = packed(tmp_path / "a.tar.gz", "old-model")
    found = repository(tmp_path)
    opening = found.begin(path)
    assert opening.partial is not None
    same_outside(path, "new-model")
    unpack_now(opening.fd, opening.partial, "a", found.limits, 10)
    found.end(opening)
    found.give_up(opening)
    assert (opening.folder / "which.txt").read_text() == "old-model"
    again = found.open("a", path)
    assert (Path(again.path) / "which.txt").read_text() == "new-model"


def test_an_archive_that_is_written_to_while_it_is_unpacked_is_not_kept(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", "old-model")
    found = repository(tmp_path)
    opening = found.begin(path)
    assert opening.partial is not None
    unpack_now(opening.fd, opening.partial, "a", found.limits, 10)
    with path.open("r+b") as file:
        file.write(b"\x1f")
    with pytest.raises(ModelFailed, match="was changed while"):
        found.end(opening)
    found.give_up(opening)
    assert not list((tmp_path / "cache").glob(f"models/*/{PARTIAL}*"))
    assert not opening.folder.exists()


def test_a_pipe_in_the_place_of_an_archive_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar.gz")
    with pytest.raises(FileNotFoundError):
        open_archive(tmp_path / "a.tar.gz")
    with pytest.raises(ModelNotFound):
        repository(tmp_path).find("a")


def test_an_address_of_what_is_no_model_tells_nothing_of_it(tmp_path: Path) -> None:
    """One answer for a file, a folder, a folder in a folder, and nothing."""
    outside = tmp_path / "outside"
    (outside / "folder" / "only").mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (outside / "empty").touch()
    (tmp_path / "store").mkdir()
    config = load({"SAGEMAKER_MULTI_MODEL": "true", "SERVING_MODEL_STORE": str(tmp_path / "store")})
    found = ModelRepository(config, DiskCache(tmp_path), lambda _: False)
    for name in ("folder", "secret.txt", "empty", "nothing", "folder/only", "secret.txt/below"):
        url = str(outside / name)
        with pytest.raises(ModelNotFound) as refusal:
            found.open("a", found.locate("a", url))
        assert refusal.value.message == f"url is {url!r}, where no model is"
    (outside / "cut.tar.gz").write_bytes(packed(outside / "b", "x").read_bytes()[:50])
    with pytest.raises(BadArchive):
        found.open("a", found.locate("a", str(outside / "cut.tar.gz")))


def test_refusals_name_no_path_of_the_server(tmp_path: Path) -> None:
    archives = {
        "nothing": tar(tmp_path / "nothing.tar.gz", ("notes.txt", b"")),
        "wrong": tar(tmp_path / "wrong.tar.gz", ("serving.toml", b"hander = 1")),
        "deep": tar(tmp_path / "deep.tar.gz", ("in/serving.toml", b"handler = 'a'")),
        "manifest": tar(tmp_path / "manifest.tar.gz", ("MAR-INF/MANIFEST.json", b"{}")),
        "damaged": tmp_path / "damaged.tar.gz",
        "text": tmp_path / "text.zip",
    }
    archives["damaged"].write_bytes(b"\x1f\x8b no")
    archives["text"].write_bytes(b"text")
    found = repository(tmp_path)
    for name in archives:
        with pytest.raises((BadArchive, BadModel)) as refusal:
            found.open(name, found.find(name))
        assert refusal.value.status == 400
        assert str(tmp_path) not in refusal.value.message
        assert f"{name}." in refusal.value.message
