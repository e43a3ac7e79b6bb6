"""The folder for a model's packages is the user's own, whatever others have put in its place."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from serving.config.config import load
from serving.errors import ModelError
from serving.model.folder import read_model
from serving.worker.loading.requirements import find, home_of, locked


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "requirements.txt").write_text("six")
    return tmp_path / "requirements.txt"


def test_it_is_made_once_and_private(file: Path) -> None:
    home = home_of(file, file.parent / "requirements")
    assert home_of(file, file.parent / "requirements") == home
    assert [folder.stat().st_mode & 0o777 for folder in (home, home.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("how", ["link", "file", "open"])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_link_or_what_others_may_write_to_is_refused(file: Path, how: str, depth: int) -> None:
    home = home_of(file, file.parent / "requirements")
    path = (home.parent, home)[depth]
    elsewhere = file.parent / "elsewhere"
    path.rename(elsewhere)
    match how:
        case "link":
            path.symlink_to(elsewhere)
        case "file":
            path.touch()
        case "open":
            path.mkdir()
            path.chmod(0o777)
    with pytest.raises(ModelError, match="no folder that this user alone can write to"):
        home_of(file, file.parent / "requirements")


@pytest.mark.parametrize("how", ["link", "pipe"])
def test_something_else_in_the_place_of_the_lock_is_neither_followed_nor_waited_for(file: Path, how: str) -> None:
    home = home_of(file, file.parent / "requirements")
    if how == "link":
        (home / "lock").symlink_to(file)
    else:
        os.mkfifo(home / "lock")
    with pytest.raises(OSError, match=r"regular file|symbolic links"), locked(home):
        pass
    assert file.read_text() == "six"


def test_an_archive_that_is_served_by_a_handler_of_its_own_keeps_what_its_manifest_names(tmp_path: Path) -> None:
    (tmp_path / "MAR-INF").mkdir()
    manifest = '{"model": {"handler": "base_handler", "requirementsFile": "needs.txt"}}'
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(manifest)
    (tmp_path / "needs.txt").touch()
    for toml, convention in (("", "torchserve"), ('handler = "mine:Mine"\n', "")):
        (tmp_path / "serving.toml").write_text(toml)
        model = read_model(tmp_path, "m", load({}, {}), 1)
        assert (model.convention, find(model)) == (convention, tmp_path / "needs.txt")
