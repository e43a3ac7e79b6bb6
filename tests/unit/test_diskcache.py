"""The cache on disk: private, shared by servers, of which none takes away what another one holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.errors import ModelError
from serving.supervisor.store.diskcache import PARTIAL, Cost, DiskCache

HOLD = """
import sys
from pathlib import Path
from serving.supervisor.store.diskcache import DiskCache
print(DiskCache(Path(sys.argv[1])).hold(Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_server(cache: DiskCache, folder: Path) -> Iterator[None]:
    """One that serves from ``folder`` of the same cache, until it is killed."""
    command = [sys.executable, "-c", HOLD, str(cache.path), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield
        finally:
            process.kill()


def unpacked(cache: DiskCache, archive: Path, digest: str = "digest") -> Path:
    archive.touch()
    home = cache.home(archive)
    partial = cache.begin(home)
    (partial / "f").touch()
    cache.finish(partial, home / digest)
    return home / digest


def test_what_another_server_serves_from_is_not_removed_until_it_has_ended(tmp_path: Path) -> None:
    cache = DiskCache.open(tmp_path)
    folder = unpacked(cache, tmp_path / "a.tar.gz")
    with another_server(cache, folder):
        cache.drop(folder)
        assert (folder / "f").exists()
        (tmp_path / "a.tar.gz").unlink()
        DiskCache.open(tmp_path)
        assert (folder / "f").exists()
    cache.drop(folder)
    assert not folder.exists()
    assert list(DiskCache.open(tmp_path).path.glob("models/*")) == []


def test_what_another_server_is_filling_is_not_swept_and_what_a_killed_one_left_is(tmp_path: Path) -> None:
    cache = DiskCache.open(tmp_path)
    (tmp_path / "a.tar.gz").touch()
    home = cache.home(tmp_path / "a.tar.gz")
    kept, left = home / f"{PARTIAL}1-x", home / f"{PARTIAL}{os.getpid()}-y"
    for partial in (kept, left):
        partial.mkdir()
    with another_server(cache, kept):
        DiskCache.open(tmp_path)
        assert [partial.exists() for partial in (kept, left)] == [True, False]
    DiskCache.open(tmp_path)
    assert not kept.exists()


def test_of_two_who_unpack_one_archive_the_second_takes_what_the_first_has_brought(tmp_path: Path) -> None:
    cache, other = DiskCache.open(tmp_path), DiskCache.open(tmp_path)
    (tmp_path / "a.tar.gz").touch()
    home = cache.home(tmp_path / "a.tar.gz")
    one, two = cache.begin(home), other.begin(home)
    for partial in (one, two):
        (partial / "f").touch()
    cache.finish(one, home / "digest")
    other.finish(two, home / "digest")
    assert [entry.name for entry in cache.states(home)] == ["digest"]
    assert not list(home.glob(f"{PARTIAL}*"))
    cache.drop(home / "digest")
    assert (home / "digest" / "f").exists(), "the other one holds it as well"
    other.drop(home / "digest")
    assert not (home / "digest").exists()


def spoil(path: Path, how: str) -> None:
    """Have something else in the place of a cache folder."""
    match how:
        case "open":
            path.mkdir()
            path.chmod(0o777)
        case "link":
            path.symlink_to(path.parent)
        case "file":
            path.touch()
        case "pipe":
            os.mkfifo(path)


@pytest.mark.parametrize("how", ["open", "link", "file", "pipe"])
def test_a_cache_folder_that_is_not_ours_alone_is_left_and_its_substitute_used_again(tmp_path: Path, how: str) -> None:
    spoil(tmp_path / f"serving-cache-{os.geteuid()}", how)
    paths = {DiskCache.open(tmp_path).path for _ in range(3)}
    [path] = paths
    assert path.stat().st_mode & 0o777 == 0o700
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_folder_that_is_ours_is_used_again(tmp_path: Path) -> None:
    cache = DiskCache.open(tmp_path)
    assert cache.path.stat().st_mode & 0o777 == 0o700
    assert DiskCache.open(tmp_path).path == cache.path
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("how", ["open", "link", "file", "pipe"])
def test_something_else_in_the_place_of_a_folder_in_it_is_told(tmp_path: Path, how: str) -> None:
    (tmp_path / "cache").mkdir()
    spoil(tmp_path / "cache" / "models", how)
    with pytest.raises(ModelError, match="no folder that this user alone can write to"):
        DiskCache(tmp_path / "cache")


@pytest.mark.parametrize("how", ["link", "pipe", "folder"])
def test_something_else_in_the_place_of_a_file_is_neither_followed_nor_waited_for(tmp_path: Path, how: str) -> None:
    cache = DiskCache.open(tmp_path)
    (tmp_path / "a.tar.gz").touch()
    note, cost = cache.home(tmp_path / "a.tar.gz") / ".archive", cache.path / "costs" / "d-cpu"
    cache.learn("d", "cpu", Cost(1, 2, 3))
    for path in (note, cost):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        path.unlink()
        if how == "link":
            path.symlink_to(tmp_path / path.name)
        elif how == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
    assert DiskCache.open(tmp_path).recall("d", "cpu") is None
