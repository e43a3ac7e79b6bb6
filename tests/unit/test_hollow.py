"""Arrays that have no bytes and yet many positions, in every type of body that becomes an array."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from typing import Any

import msgspec
import pytest

from serving import claims, codecs
from serving.adapters.djl import ndlist
from serving.adapters.torchserve.envelopes import shaped
from serving.codecs import npy
from serving.codecs.hollow import HOLLOW
from serving.errors import BadRequest, BodyTooLarge
from serving.request import Request
from serving.worker.batching.batcher import Item
from triton_python_backend_utils import wire

HUGE = 100_000_000
SHAPES = [(HUGE, 0), (HUGE, 0, 4), (0, HUGE), (4, HUGE, 0), (0, 1 << 80), (1 << 15, 1 << 15, 0)]
NO_BYTES: list[Any] = ["|V0", "|S0", "<U0", [("a", "|V0")], [("a", "|V0"), ("b", "<U0")]]
INNER: list[Any] = [("<f8", (HUGE, 0)), [("a", "<f8", (HUGE, 0)), ("b", "|u1")]]
FINE: list[tuple[int, ...]] = [(0,), (0, 4), (2, 0), (0, 3, 224, 224), (1000, 0)]


def head(descr: Any, shape: tuple[int, ...]) -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return npy.MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text


def archive(*members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as found:
        for number, member in enumerate(members):
            found.writestr(f"{number}.npy", member)
    return file.getvalue()


def refused(body: bytes, kind: str) -> str:
    begun = time.monotonic()
    with pytest.raises(BadRequest) as told:
        codecs.decode(body, kind)
    assert time.monotonic() - begun < 10
    return told.value.message


@pytest.mark.parametrize("descr", ["<f8", ">f8", "|u1", "|b1", "<M8[s]"])
@pytest.mark.parametrize("shape", SHAPES)
def test_of_lengths_beside_a_zero(descr: str, shape: tuple[int, ...]) -> None:
    for _ in range(2):  # by numpy, and by a head that would be known then
        for body, kind in ((head(descr, shape), codecs.NPY), (archive(head(descr, shape)), codecs.NPZ)):
            assert str(shape)[:100] in refused(body, kind)
            assert "without a byte" in refused(body, kind)


@pytest.mark.parametrize("descr", NO_BYTES)
def test_of_items_without_a_byte(descr: Any) -> None:
    assert f"{(HUGE,)}" in refused(head(descr, (HUGE,)), codecs.NPY)


@pytest.mark.parametrize("descr", INNER)
def test_within_items(descr: Any) -> None:
    assert "without a byte" in refused(head(descr, (1,)) + bytes(isinstance(descr, list)), codecs.NPY)


def test_raw() -> None:
    assert "without a byte" in refused(b"", f"application/octet-stream; dtype=float64; shape={HUGE},0,4")


@pytest.mark.parametrize("shape", FINE)
def test_ordinary_empty_arrays_are_read(shape: tuple[int, ...]) -> None:
    for _ in range(2):
        assert codecs.decode(head("<f4", shape), codecs.NPY).shape == shape
    assert codecs.decode(archive(head("<f4", shape)), codecs.NPZ)["0"].shape == shape
    told = ",".join(map(str, shape))
    assert codecs.decode(b"", f"application/octet-stream; dtype=float32; shape={told}").shape == shape
    assert ndlist.read(listed(shape))[0].shape == shape
    assert list(wire.read_tensors([entry(shape)], memoryview(b""))[0].shape()) == list(shape)


def test_the_places_of_many_are_claimed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one = head("<f4", (HOLLOW // 2, 0))
    monkeypatch.setattr(claims, "_ledger", claims.Ledger(64 * HOLLOW + (1 << 20)))
    item = Item(1, Request(b""))
    monkeypatch.setattr(claims.own, "holder", item)
    codecs.decode(archive(one), codecs.NPZ)
    claims.release([item])
    with pytest.raises(BodyTooLarge):
        codecs.decode(archive(one, one, one), codecs.NPZ)


def listed(shape: tuple[int, ...]) -> bytes:
    start = [ndlist.text("NDAR"), struct.pack(">iB", 3, 0), ndlist.text("default"), ndlist.text("FLOAT32")]
    told = struct.pack(f">i{len(shape)}qi", len(shape), *shape, len(shape)) + b"\x00?" * len(shape)
    return struct.pack(">i", 1) + b"".join(start) + told + b"<" + struct.pack(">i", 0)


def entry(shape: tuple[int, ...], datatype: str = "FP32", **more: Any) -> wire.TensorEntry:
    told = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": 0}, **more}
    return msgspec.convert(told, wire.TensorEntry)


def test_lists_of_arrays() -> None:
    with pytest.raises(BadRequest, match="without a byte"):
        ndlist.read(listed((HUGE, 0)))


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BOOL", "BF16"])
@pytest.mark.parametrize("more", [{}, {"parameters": {}, "data": []}])
def test_tensors(datatype: str, more: Any) -> None:
    with pytest.raises(wire.WireError, match=r"'x'.*without a value"):
        wire.read_tensors([entry((HUGE, 0), datatype, **more)], memoryview(b""))


def test_many_tensors_have_the_bound_of_one() -> None:
    with pytest.raises(wire.WireError, match="without a value"):
        wire.read_tensors([entry((HOLLOW, 0))] * 2, memoryview(b""))


def test_inputs_of_the_open_inference_protocol() -> None:
    assert shaped({"datatype": "FP32", "data": [], "shape": [2, 0]}) == [[], []]
    with pytest.raises(BadRequest, match="without a byte"):
        shaped({"datatype": "FP32", "data": [], "shape": [HUGE, 0]})
