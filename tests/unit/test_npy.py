"""The npy reader against numpy's own: whatever the header says and wherever the body ends, first and later bodies."""

from __future__ import annotations

import io
import itertools
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

from serving import codecs
from serving.codecs import npy
from serving.codecs.npy import read_npy
from serving.errors import BadRequest

DTYPES = st.one_of(
    extra.scalar_dtypes(),
    extra.array_dtypes(extra.scalar_dtypes(), min_size=1, max_size=3),
    st.sampled_from(
        [np.dtype(code) for code in ("?", "b", "<u2", ">u2", "<f2", ">i8", "<c16", ">c8", "U3", "S2", "m8[s]")]
    ),
)
ARRAYS = st.tuples(DTYPES, extra.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5)).flatmap(
    lambda made: extra.arrays(made[0], made[1])
)
VERSIONS = st.sampled_from([(1, 0), (2, 0), (3, 0)])


def npy_of(array: Any, version: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    version = version if str(array.dtype).isascii() else (3, 0)
    np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    return file.getvalue()


def by_numpy(body: bytes) -> np.ndarray | None:
    """None where it takes it for no array, or passes over what comes behind it."""
    file = io.BytesIO(body)
    try:
        found = np.load(file, allow_pickle=False)
    except Exception:
        return None
    return found if isinstance(found, np.ndarray) and file.tell() == len(body) else None


def check(body: bytes | bytearray | memoryview) -> None:
    wanted = by_numpy(bytes(body))
    if wanted is not None:
        wanted = wanted.astype(wanted.dtype.newbyteorder("="))
    for _ in range(2):  # the second one by what the first has taught
        if wanted is None:
            with pytest.raises(BadRequest):
                read_npy(body)
            continue
        found = read_npy(body)
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes("A") == wanted.tobytes("A")
        assert found.flags.writeable
        assert found.flags.aligned
        for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS"):
            assert found.flags[flag] == wanted.flags[flag]


@given(ARRAYS, VERSIONS, st.booleans(), st.binary(max_size=20), st.sampled_from([bytes, bytearray, memoryview]))
def test_arrays_of_every_kind(array: Any, version: tuple[int, int], fortran: bool, behind: bytes, kind: Any) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    check(kind(npy_of(array, version) + behind))


@given(ARRAYS, VERSIONS, st.data())
def test_bodies_that_end_early_are_refused_as_by_numpy(
    array: Any, version: tuple[int, int], data: st.DataObject
) -> None:
    body = npy_of(array, version)
    check(body)  # so that its header is known
    check(body[: data.draw(st.integers(0, len(body)))])


@given(ARRAYS, VERSIONS, st.data())
def test_headers_with_a_wrong_byte(array: Any, version: tuple[int, int], data: st.DataObject) -> None:
    body = bytearray(npy_of(array, version))
    at = data.draw(st.integers(0, max(0, len(body) - array.nbytes - 1)))
    body[at] = data.draw(st.integers(0, 255))
    check(bytes(body))


@given(st.binary(max_size=200))
def test_whatever_else_begins_like_npy(rest: bytes) -> None:
    check(npy.MAGIC + rest)


HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
    "{'shape': (2, 3), 'fortran_order': True, 'descr': '<f4'}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 62, 4)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (3,)}",
    "{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (0,)}",
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': 2}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
    "{'descr': '<f4', 'fortran_order': False}",
    "{'descr': '<V4', 'fortran_order': False, 'shape': (2,)}",
    "[1, 2]",
    "",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("padding", range(0, 17, 3))
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (1, 1), (4, 0), (0, 0)])
@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # of Python 2
def test_headers_of_other_writers(header: str, padding: int, version: tuple[int, int]) -> None:
    text = (header + " " * padding + "\n").encode("latin-1")
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    check(npy.MAGIC + bytes(version) + size + text + bytes(range(24)))


def test_long_headers_are_read_and_not_remembered() -> None:
    known = dict(npy._layouts)
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}" + b" " * 4000 + b"\n"
    check(npy.MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8))
    assert npy._layouts == known


def test_no_more_headers_are_remembered_than_there_is_room_for() -> None:
    for n in range(npy.KNOWN + 8):
        check(npy_of(np.zeros((n % 7, n), np.uint8), (1, 0)))
        assert len(npy._layouts) <= npy.KNOWN


def test_the_array_of_a_bytearray_is_on_its_bytes_and_of_anything_else_its_own() -> None:
    body = bytearray(npy_of(np.arange(4, dtype=np.uint8), (1, 0)))
    for kind, shares in ((bytearray, True), (bytes, False), (memoryview, False)):
        given = kind(body) if kind is not bytearray else body
        read_npy(given)
        assert np.shares_memory(read_npy(given), np.frombuffer(given, np.uint8)) is shares


def test_what_comes_behind_an_array_is_refused_with_its_size() -> None:
    for array in (np.arange(6, dtype=np.float32), np.zeros((0, 4)), np.array(["ab"])):
        body = npy_of(array, (1, 0))
        for _ in range(2):  # by numpy, and by the header that is known then
            with pytest.raises(BadRequest, match="5 bytes come behind the array"):
                read_npy(body + b"bytes")
            read_npy(body)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.npy", body + b"bytes")
        with pytest.raises(BadRequest, match="5 bytes come behind the array"):
            codecs.decode(file.getvalue(), codecs.NPZ)


def test_a_head_with_a_key_twice_is_refused() -> None:
    for first, padding in itertools.product(("'descr': '<f8'", "'shape': (1,)", "'fortran_order': False"), (0, 600)):
        text = f"{{{first}, 'descr': '<i8', 'fortran_order': False, 'shape': (1,), }}" + " " * padding + "\n"
        body = npy.MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)
        for data, kind in ((body, codecs.NPY), (archived(body), codecs.NPZ)):
            for _ in range(2):
                with pytest.raises(BadRequest, match=r"key .* twice"):
                    codecs.decode(data, kind)


def test_fields_may_be_called_like_keys() -> None:
    array = np.array([(1, 2, 3)], [("shape", "<i4"), ("descr", "<i4"), ("3L", "<i4")])
    assert codecs.decode(npy_of(array, (1, 0)), codecs.NPY).tolist() == [(1, 2, 3)]


def archived(*bodies: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, body in enumerate(bodies):
            archive.writestr(f"{number}.npy", body)
    return file.getvalue()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_comes_before_or_behind_an_archive_is_refused(count: int) -> None:
    body = archived(*[npy_of(np.arange(n), (1, 0)) for n in range(count)])
    assert len(codecs.decode(body, codecs.NPZ)) == count
    moved = io.BytesIO()
    moved.write(b"#!")
    with zipfile.ZipFile(moved, "a") as archive:  # which counts from the beginning of the file
        for n in range(count):
            archive.writestr(f"{n}.npy", npy_of(np.arange(n), (1, 0)))
    for bad in (b"xx" + body, body + b"x", body + b"\0" * 30, body + body, moved.getvalue()):
        with pytest.raises(BadRequest, match="before or behind"):
            codecs.decode(bad, codecs.NPZ)


def test_archives_of_other_writers_are_read() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"a comment"
        with archive.open("a.npy", "w", force_zip64=True) as member:
            member.write(npy_of(np.arange(3), (1, 0)))
    assert codecs.decode(file.getvalue(), codecs.NPZ)["a"].tolist() == [0, 1, 2]
