"""What bodies decode to is bounded for a process, whatever they say and however many there are."""

from __future__ import annotations

import functools
import gc
import io
import json
import struct
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving import BatchPolicy, Handler, Request, claims, codecs
from serving.errors import BadRequest, BodiesFull, BodyTooLarge, ServingError
from serving.testing import Client
from serving.worker.batching.batcher import Item
from serving.worker.engine.decoding import decode

MIB = 1 << 20
LIMIT = 64 * MIB


@pytest.fixture(autouse=True)
def little_room() -> Iterator[None]:
    gc.collect()
    claims.set_limit(LIMIT)
    yield
    claims.set_limit(claims.UNLIMITED)


def npy_head(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@functools.cache
def npz(size: int, files: int = 1) -> bytes:
    """``files`` arrays of ``size`` zeros together."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"{number}.npy", npy_head((size // files,), "|u1") + bytes(size // files))
    return file.getvalue()


def png(width: int, height: int, rows: int | None = None, filler: int = 0) -> bytes:
    """Grey, of which only ``rows`` are there, behind ``filler`` bytes that say nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((1 + width) * (height if rows is None else rows)), 9)
    note = chunk(b"teXt", bytes(filler))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + note + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


def picture(form: str, side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 10, 10)).save(file, form)
    return file.getvalue()


# Each is far smaller than what it says that it holds, or becomes.
HUGE: dict[str, tuple[bytes, str]] = {
    "npz": (npz(2 * LIMIT), "application/x-npz"),
    "npz of many": (npz(2 * LIMIT, 50), "application/x-npz"),
    "npz of entries": (npz(0, 70_000), "application/x-npz"),
    "png": (png(8_000, 8_000), "image/png"),
    "jpeg": (picture("jpeg", 5000), "image/jpeg"),
    "webp": (picture("webp", 5000), "image/webp"),
    "gif": (picture("gif", 5000), "image/gif"),
    "json objects": (b"[" + b"{}," * 500_000 + b"1]", "application/json"),
    "json lists": (b"[" + b"[]," * 500_000 + b"1]", "application/json"),
    "json texts": (b"[" + b'"ab",' * 900_000 + b"1]", "application/json"),
    "json lines": (b"{}\n" * 500_000, "application/jsonlines"),
    "csv": (b",\n" * 600_000, "text/csv"),
    "csv of fields": (b"1," * 800_000 + b"1", "text/csv"),
}  # fmt: skip

# These say more than is there.
HOLLOW: dict[str, tuple[bytes, str]] = {
    "npy": (npy_head((1 << 40,)) + b"x", "application/x-npy"),
    "npy of many axes": (npy_head((1 << 20, 1 << 20, 1 << 20)), "application/x-npy"),
    "npy below zero": (npy_head((-1, 4)) + bytes(100), "application/x-npy"),
    "npz": (b"", "application/x-npz"),
    "png tall": (png(1, 3_000_000, 1000), "image/png"),
    "png wide": (png(3_000_000, 1, 0), "image/png"),
    "png with a filler": (png(1500, 1500, 10, 300_000), "image/png"),
    "gif": (gif(1500, 1500), "image/gif"),
}  # fmt: skip
with zipfile.ZipFile(hollow := io.BytesIO(), "w") as _archive:
    _archive.writestr("a.npy", npy_head((1 << 34,)) + b"x")
HOLLOW["npz"] = (hollow.getvalue(), "application/x-npz")

FITS: dict[str, tuple[bytes, str]] = {
    "npz": (npz(16 * MIB), "application/x-npz"),
    "png": (png(1000, 1000), "image/png"),
    "jpeg": (picture("jpeg", 1000), "image/jpeg"),
    "json": (json.dumps([0.123456] * 200_000).encode(), "application/json"),
    "json lines": (b'{"a": [1, 2]}\n' * 40_000, "application/jsonlines"),
    "csv": (b"1.5,2.5,3.5,4.5\n" * 20_000, "text/csv"),
    "text": ("ä".encode() * 1_000_000, "text/plain"),
}  # fmt: skip


def peak_of(work: Callable[[], Any]) -> int:
    """The most that ``work`` holds at a time, in bytes, as far as Python and numpy allocate."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HUGE)
def test_what_can_never_fit_is_413_before_it_is_made(name: str) -> None:
    body, kind = HUGE[name]

    def work() -> None:
        with pytest.raises(BodyTooLarge):
            codecs.decode(body, kind)

    assert peak_of(work) < 2 * MIB + len(body)


@pytest.mark.parametrize("name", HOLLOW)
def test_what_says_more_than_is_there_is_400_before_it_is_made(name: str) -> None:
    body, kind = HOLLOW[name]

    def work() -> None:
        with pytest.raises(BadRequest) as caught:
            codecs.decode(body, kind)
        assert caught.value.status in (400, 413)

    assert peak_of(work) < 2 * MIB + 2 * len(body)


@pytest.mark.parametrize("name", FITS)
def test_what_is_claimed_is_at_least_what_it_takes_and_what_stays_is_what_it_is(name: str) -> None:
    body, kind = FITS[name]
    item = Item(1, Request(body, kind))
    claims.set_limit(claims.UNLIMITED)
    most = 0
    take = claims.Ledger.take

    def watched(ledger: claims.Ledger, size: int) -> bool:
        nonlocal most
        taken = take(ledger, size)
        most = max(most, ledger.held)
        return taken

    claims.Ledger.take = watched  # type: ignore[method-assign]
    try:
        peak = peak_of(lambda: decode(Handler(), item))
    finally:
        claims.Ledger.take = take  # type: ignore[method-assign]
    assert peak <= 1.2 * most + MIB, f"{peak / len(body):.0f} bytes a byte"
    assert item.sample is not None
    if isinstance(item.sample, np.ndarray):
        assert claims.held() == item.sample.nbytes
    claims.release([item])
    assert claims.held() == 0


class Holding(Handler):
    policy = BatchPolicy(max_size=8)

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.claimed = 0

    def bucket(self, sample: Any) -> str:
        return "all"

    def collate(self, samples: Any) -> Any:
        return samples

    def predict(self, batch: list[Any]) -> list[int]:
        self.sizes.append(len(batch))
        self.claimed = max(self.claimed, claims.held())
        return [sum(array.nbytes for array in sample.values()) for sample in batch]


class Threaded(Holding):
    decode_threads = 4


@pytest.mark.parametrize("kind", [Holding, Threaded])
def test_a_batch_and_all_that_is_decoded_beside_it_share_one_bound(kind: type[Holding]) -> None:
    handler = kind()
    client = Client(handler)
    for _ in range(2):
        outcomes = client.batch([Request(npz(20 * MIB), "application/x-npz")] * 8)
        refused = [one for one in outcomes if isinstance(one, ServingError)]
        assert {type(one) for one in refused} == {BodiesFull}
        assert len(refused) <= 7
        assert handler.claimed <= LIMIT
        assert claims.held() == 0
    assert sum(handler.sizes) >= 4, "they are answered, three at a time"


class Failing(Holding):
    def predict(self, batch: list[Any]) -> list[int]:
        super().predict(batch)
        raise ValueError("no")


class FailingLate(Holding):
    def bucket(self, sample: Any) -> str:
        raise ValueError("no")


class Sly(Holding):
    def decode(self, request: Request) -> Any:
        super().decode(request)
        raise ValueError("no")


@pytest.mark.parametrize("kind", [Failing, FailingLate, Sly])
def test_however_a_request_ends_its_claim_ends_with_it(kind: type[Holding]) -> None:
    client = Client(kind())
    for _ in range(3):
        client.batch([Request(npz(30 * MIB), "application/x-npz"), Request(npz(3 * LIMIT), "application/x-npz")])
        assert claims.held() == 0


def test_claims_of_many_threads_never_exceed_the_limit_and_all_come_back() -> None:
    most: list[int] = []

    class One(Handler):
        def decode(self, request: Request) -> Any:
            claims.take(LIMIT // 4)
            most.append(claims.held())
            time.sleep(0)
            return None

    def work() -> None:
        for number in range(200):
            decode(One(), Item(number, Request()))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert max(most) <= LIMIT
    assert claims.held() == 0


def test_bodies_keep_their_values_whatever_is_measured() -> None:
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(3),
                  np.zeros((0, 4)), np.array(["ab", "c"]), np.array([(1, 2.0)], "i4,f8"), np.array([1], "M8[s]"),
                  np.array([True]), np.array([b"", b""], "S0")):  # fmt: skip
        file = io.BytesIO()
        np.save(file, array)
        found = codecs.decode(file.getvalue(), "application/x-npy")
        assert found.dtype == array.dtype
        assert found.flags.writeable
        np.testing.assert_array_equal(found, array)
        file = io.BytesIO()
        np.savez_compressed(file, a=array, b=array)
        pair = codecs.decode(file.getvalue(), "application/x-npz")
        assert list(pair) == ["a", "b"]
        np.testing.assert_array_equal(pair["b"], array)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_every_kind_of_whole_png_is_whole(mode: str, interlaced: bool) -> None:
    for side in (1, 7, 600):
        file = io.BytesIO()
        Image.new(mode, (side, side + 1)).save(file, "PNG", optimize=True)
        assert codecs.decode(file.getvalue(), "image/png").shape[:2] == (side + 1, side)
    assert not interlaced or codecs.decode(adam7(7, 5), "image/png").shape == (5, 7)


def adam7(width: int, height: int) -> bytes:
    """Grey and interlaced; Pillow reads such but writes none."""
    from serving.codecs.measuring import PASSES

    rows = b""
    for x, y, dx, dy in PASSES:
        columns, count = -(-(width - x) // dx), -(-(height - y) // dy)
        rows += bytes((1 + columns) * count) if columns > 0 else b""
    one = bytearray(png(width, height))
    one[28] = 1
    one[29:33] = struct.pack(">I", zlib.crc32(bytes(one[12:29])))
    data = zlib.compress(rows)
    at = one.index(b"IDAT") - 4
    body = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return bytes(one[:at]) + body + bytes(one[-12:])
