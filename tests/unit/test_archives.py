"""Model archives are hostile: what comes out is inside its folder, within the limits, and whole or not there."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadArchive
from serving.supervisor.archives import Limits, extract

LIMITS = Limits(size=1 << 20, files=50, ratio=1000.0)


def tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                archive.addfile(member)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(path: Path, *members: tuple[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def refused(archive: Path, words: str, limits: Limits = LIMITS) -> None:
    home = archive.parent / "home"
    home.mkdir()
    with pytest.raises(BadArchive, match=words):
        extract(archive, home / "model", limits)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("make", [tar, zipped])
def test_files_and_folders_come_out_as_they_went_in(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / "a", ("model.pt", b"weights"), ("code/inference.py", b"x = 1"))
    extract(archive, tmp_path / "model", LIMITS)
    assert (tmp_path / "model" / "model.pt").read_bytes() == b"weights"
    assert (tmp_path / "model" / "code" / "inference.py").read_bytes() == b"x = 1"


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", ("f", b"new"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "f").write_bytes(b"old")
    extract(archive, tmp_path / "model", LIMITS)
    assert (tmp_path / "model" / "f").read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "model"]


def test_links_inside_the_folder_work(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "a",
        ("data/v1.bin", b"v1"),
        special("data/latest.bin", tarfile.SYMTYPE, "v1.bin"),
        special("second.bin", tarfile.LNKTYPE, "data/v1.bin"),
    )
    extract(archive, tmp_path / "model", LIMITS)
    for name in ("data/latest.bin", "second.bin"):
        assert (tmp_path / "model" / name).read_bytes() == b"v1"


def test_special_bits_do_not_survive_but_executable_does(tmp_path: Path) -> None:
    info = tarfile.TarInfo("tool")
    info.mode = 0o6755
    extract(tar(tmp_path / "a", info), tmp_path / "model", LIMITS)
    assert stat.S_IMODE((tmp_path / "model" / "tool").stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "//x", "/"])
@pytest.mark.parametrize("make", [tar, zipped])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    refused(make(tmp_path / "a", ("good", b""), (name, b"evil")), "leave its folder|cannot be")


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../../x", "a/../../x"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, kind: bytes, target: str) -> None:
    refused(tar(tmp_path / "a", special("a", kind, target)), "leaves its folder")


def test_a_chain_of_links_that_leaves_the_folder_in_two_steps_is_refused(tmp_path: Path) -> None:
    chain = (special("d/e/up", tarfile.SYMTYPE, "../.."), special("out", tarfile.SYMTYPE, "d/e/up/.."))
    refused(tar(tmp_path / "a", ("d/e/f", b""), *chain), "leaves its folder")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"precious")
    link = special("d", tarfile.SYMTYPE, str(outside))
    home = tmp_path / "home"
    home.mkdir()
    for second in (("d/x", b"evil"), special("d/x", tarfile.SYMTYPE, "/dev/null")):
        with pytest.raises(BadArchive):
            extract(tar(tmp_path / "a", link, second), home / "model", LIMITS)
    assert (outside / "x").read_bytes() == b"precious"
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    refused(tar(tmp_path / "a", special("null", kind)), "device or a pipe")


def test_a_device_in_a_zip_is_refused(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "a", ("null", b""), mode=stat.S_IFCHR | 0o666), "device or a pipe")


def test_a_link_in_a_zip_is_followed_by_the_same_rule(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "a", ("l", b"../../etc/passwd"), mode=stat.S_IFLNK | 0o777), "leaves its folder")


@pytest.mark.parametrize("make", [tar, zipped])
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path: Path, make: Callable[..., Path]) -> None:
    whole = make(tmp_path / "a", *((f"f{n}", os.urandom(3000)) for n in range(5))).read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(BadArchive):
            extract(tmp_path / "cut", tmp_path / "model", LIMITS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "cut"]


@given(st.binary(max_size=400))
def test_bytes_that_are_no_archive_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    for content in (data, gzip.compress(data)):
        (folder / "a").write_bytes(content)
        try:
            extract(folder / "a", folder / "model", LIMITS)
        except BadArchive:
            assert not (folder / "model").exists()


def test_a_bomb_is_refused_at_the_limit_of_size(tmp_path: Path) -> None:
    refused(tar(tmp_path / "a", ("zeros", bytes(2 << 20))), "more than 1048576 bytes")


def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    limits = Limits(size=1 << 40, files=50, ratio=100.0)
    refused(zipped(tmp_path / "a", ("zeros", bytes(80 << 20))), "more than 100 times its size", limits)


def test_a_bomb_of_entries_is_refused(tmp_path: Path) -> None:
    refused(tar(tmp_path / "a", *((f"f{n}", b"") for n in range(51))), "more than 50 entries")


def test_a_header_that_wants_all_memory_is_refused(tmp_path: Path) -> None:
    """A pax header's size is believed by tarfile, which reads it into memory at once."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 4 << 30
    (tmp_path / "a").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20)))
    refused(tmp_path / "a", "oversized header", Limits(1 << 40, 50, 1e9))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "a", ("f", b"secret")).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a").write_bytes(data)
    refused(tmp_path / "a", "damaged or no archive")


def test_a_file_and_a_folder_of_one_name_are_refused(tmp_path: Path) -> None:
    refused(tar(tmp_path / "a", ("x", b"file"), ("x/y", b"")), "cannot be")


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path) -> None:
    refused(tar(tmp_path / "a", ("n" * 300, b"")), "cannot be")
