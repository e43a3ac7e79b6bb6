"""Files and folders that this user alone can write to, whatever others have put in their place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import ModelError
from serving.system.private import READ_LIMIT, is_private, lock_folder, make_own, open_plain, read_plain


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Descriptors that are closed at the end."""
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize(
    ("mode", "is_ours", "can_be_used"), [(0o700, True, True), (0o755, False, True), (0o720, False, False)]
)
def test_a_folder_is_private_by_its_mode(tmp_path: Path, mode: int, is_ours: bool, can_be_used: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert is_private(folder) is is_ours
    if can_be_used:
        assert make_own(folder) == folder
    else:
        with pytest.raises(ModelError, match="this user alone"):
            make_own(folder)


def test_a_link_a_file_and_nothing_are_no_private_folders(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch(0o600)
    assert not any(is_private(tmp_path / name) for name in ("link", "file", "nothing"))


def test_a_missing_folder_is_made_private(tmp_path: Path) -> None:
    assert is_private(make_own(tmp_path / "new"))


def test_only_a_regular_file_is_read_and_no_more_of_it_than_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (READ_LIMIT + 1))
    assert len(read_plain(file)) == READ_LIMIT
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "nothing"):
        with pytest.raises(OSError, match=name):
            open_plain(tmp_path / name)


def test_a_folder_is_locked_by_many_users_or_by_one_who_removes_it(tmp_path: Path, descriptors: list[int]) -> None:
    for _ in range(2):
        shared = lock_folder(tmp_path, alone=False)
        assert shared is not None
        descriptors.append(shared)
        assert lock_folder(tmp_path, alone=True) is None
    while descriptors:
        os.close(descriptors.pop())
    alone = lock_folder(tmp_path, alone=True)
    assert alone is not None
    descriptors.append(alone)
    assert lock_folder(tmp_path, alone=False) is None
    assert lock_folder(tmp_path / "nothing", alone=False) is None
