"""Model archives are hostile: what comes out is inside its folder and within the limits, or the archive is refused."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.supervisor.store.archives import Limits, Refused, unpack

LIMITS = Limits(size=1 << 20, files=50, ratio=1000.0)


def extract(archive: Path, folder: Path, limits: Limits) -> None:
    """In this process what is done in another one; what was refused is removed."""
    folder.mkdir()
    try:
        with archive.open("rb") as file:
            unpack(file, folder, archive.name, limits)
    except Refused:
        shutil.rmtree(folder)
        raise


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
    with pytest.raises(Refused, match=words):
        extract(archive, home / "model", limits)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("make", [tar, zipped])
def test_files_and_folders_come_out_as_they_went_in(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / "a", ("model.pt", b"weights"), ("code/inference.py", b"x = 1"))
    extract(archive, tmp_path / "model", LIMITS)
    assert (tmp_path / "model" / "model.pt").read_bytes() == b"weights"
    assert (tmp_path / "model" / "code" / "inference.py").read_bytes() == b"x = 1"


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
        with pytest.raises(Refused):
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
        with pytest.raises(Refused):
            extract(tmp_path / "cut", tmp_path / "model", LIMITS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "cut"]


@given(st.binary(max_size=400))
def test_bytes_that_are_no_archive_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    for content in (data, gzip.compress(data)):
        (folder / "a").write_bytes(content)
        try:
            extract(folder / "a", folder / "model", LIMITS)
        except Refused:
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


@contextlib.contextmanager
def peak_below(size: int) -> Iterator[None]:
    """What is allocated within is never more than ``size`` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def record(records: dict[str, str], type: bytes) -> bytes:
    """A block of pax records and its header, as tarfile itself would not write them."""
    body = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        size = len(rest)
        while len(str(size)) + len(rest) != size:
            size = len(str(size)) + len(rest)
        body += str(size).encode() + rest
    info = tarfile.TarInfo("x")
    info.type, info.size = type, len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


def header(name: str, size: int = 0, type: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = type, size
    return info.tobuf(tarfile.USTAR_FORMAT)


SPARSE = {
    "0.0": record({"GNU.sparse.size": "9", "GNU.sparse.numblocks": "1", "GNU.sparse.offset": "0"}, tarfile.XHDTYPE),
    "0.1": record({"GNU.sparse.size": "9", "GNU.sparse.map": "0,1"}, tarfile.XHDTYPE),
    "1.0": record({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}, tarfile.XHDTYPE),
    "old": b"",
}


@pytest.mark.parametrize("format", SPARSE)
def test_a_sparse_file_is_refused_before_its_map_is_read(tmp_path: Path, format: str) -> None:
    """A map is as long as the archive says, and tarfile makes an object of each number."""
    type = tarfile.GNUTYPE_SPARSE if format == "old" else tarfile.REGTYPE
    numbers = b"%d\n" % 4_000_000 + b"1\n" * 4_000_000
    (tmp_path / "a").write_bytes(gzip.compress(SPARSE[format] + header("a", 512, type) + numbers, 1))
    with peak_below(4 << 20):
        refused(tmp_path / "a", "sparse file: pack it as a whole one", Limits(1 << 40, 50, 1e9))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_without_end_are_refused(tmp_path: Path, kind: bytes) -> None:
    one = record({"comment": "x" * 500_000}, kind)
    (tmp_path / "a").write_bytes(gzip.compress(one * 50 + header("f"), 1))
    refused(tmp_path / "a", "oversized header|damaged", Limits(1 << 40, 50, 1e9))


def table(path: Path, entries: int, claimed: int, zip64: bool) -> Path:
    """A zip of which there is little more than the table of contents."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    one = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    size, at = len(one) * entries, len(local)
    end = b""
    if zip64:
        end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, claimed, claimed, size, at)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, at + size, 1)
    told = (65535, 65535, 2**32 - 1, 2**32 - 1) if zip64 else (claimed, claimed, size, at)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *told, 0)
    path.write_bytes(local + one * entries + end)
    return path


@pytest.mark.parametrize(("claimed", "zip64"), [(60_000, False), (200_000, True), (1, False), (1, True)])
def test_a_zips_entries_are_counted_before_an_object_is_made_of_each(tmp_path: Path, claimed: int, zip64: bool) -> None:
    """Also where the end record tells less than there is."""
    archive = table(tmp_path / "a", 200_000 if claimed in (1, 200_000) else claimed, claimed, zip64)
    with peak_below(1 << 20):
        refused(archive, "more than 50 entries")


def test_a_file_that_is_listed_twice_is_there_once(tmp_path: Path) -> None:
    """As ``tar -czf a.tar.gz code *`` has it: the second one is a hard link to itself, or to the other name."""
    folder = tmp_path / "source"
    (folder / "code").mkdir(parents=True)
    (folder / "w.txt").write_text("w")
    (folder / "code" / "inference.py").write_text("x = 1")
    os.link(folder / "w.txt", folder / "hard.txt")
    orders = [
        "code *",
        "w.txt w.txt",
        ". w.txt",
        "w.txt .",
        "hard.txt w.txt ./hard.txt",
        "w.txt hard.txt ./w.txt w.txt",
    ]
    for number, words in enumerate(orders):
        archive = tmp_path / f"{number}.tar.gz"
        subprocess.run(f"tar -czf {archive} {words}", shell=True, cwd=folder, check=True)
        extract(archive, tmp_path / f"model{number}", LIMITS)
        for path in (tmp_path / f"model{number}").rglob("*"):
            assert (
                path.is_dir()
                or path.read_bytes() == (folder / path.relative_to(tmp_path / f"model{number}")).read_bytes()
            )


def test_links_in_a_ring_of_second_names_are_one_file_and_the_last_entry_of_a_name_counts(tmp_path: Path) -> None:
    ring = (("a", b"1"), special("b", tarfile.LNKTYPE, "a"), special("a", tarfile.LNKTYPE, "./b"))
    extract(tar(tmp_path / "x", *ring), tmp_path / "ring", LIMITS)
    assert [(tmp_path / "ring" / name).read_bytes() for name in "ab"] == [b"1", b"1"]
    later = (("a", b"1"), special("b", tarfile.SYMTYPE, "a"), ("b", b"2"))
    extract(tar(tmp_path / "y", *later), tmp_path / "later", LIMITS)
    assert [(tmp_path / "later" / name).read_bytes() for name in "ab"] == [b"1", b"2"]


@pytest.mark.parametrize("target", ["", "x" * 5000])
def test_a_link_to_what_no_disk_takes_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "a").write_bytes(zipped(tmp_path / "z", ("l", target.encode()), mode=stat.S_IFLNK | 0o777).read_bytes())
    refused(tmp_path / "a", "cannot be|leaves its folder")


@given(data=st.data())
def test_whatever_bytes_of_an_archive_are_changed_nothing_but_a_refusal_comes_of_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("bent")
    make = data.draw(st.sampled_from([tar, zipped]))
    whole = bytearray(make(folder / "a", ("d/f", b"data" * 50), ("g", b"")).read_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)):
        whole[at] = byte
    (folder / "b").write_bytes(whole)
    with contextlib.suppress(Refused):
        extract(folder / "b", folder / "model", LIMITS)
    assert {entry.name for entry in folder.iterdir()} <= {"a", "b", "model"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EIO])
def test_what_the_machine_lacks_is_no_fault_of_the_archive(tmp_path: Path, number: int) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    with tar(tmp_path / "a", ("f", b"x")).open("rb") as file, pytest.raises(OSError, match=os.strerror(number)):
        unpack(file, tmp_path, "a", LIMITS, fail)
