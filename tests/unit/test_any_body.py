"""Any bytes of any type: a value or a client's error, in bounded memory, and never a failure of the server."""

from __future__ import annotations

import gzip
import io
import json
import random
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.images import open_image
from handlers.rows import read_rows
from serving import Handler, claims, codecs
from serving.errors import ServingError
from serving.request import Request
from serving.worker.engine import inflating
from serving.worker.engine.records import requests_of, split

ROOM = 64 << 20  # bytes for one body's value
CHARSETS = ["", "; charset=utf-16", "; charset=utf-16le", "; charset=latin-1", "; charset=gb18030", "; charset=utf-9",
            "; charset=shift_jis", "; charset=utf-8", "; charset=", "; charset=utf-32be"]  # fmt: skip


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def picture(mode: str, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (9, 7)).save(buffer, format)
    return buffer.getvalue()


JSON_SEEDS = [
    b"[1, 2.5]",
    b'{"instances": [[1, 2], [3, 4]]}',
    '["é", null, true]'.encode(),
    b"[1e38, -0.0, 18446744073709551615]",
    "[1]".encode("utf-16"),
    '{"a": {"b": "c"}}'.encode("utf-32le"),
    b"[" * 50 + b"]" * 50,
]
CSV_SEEDS = [
    b"1,2\n3,4\n",
    b'"1","2"\r\n3,\r\n',
    b"a,b\n1,2\n",
    "1,é\n".encode("utf-16"),
    b"\xef\xbb\xbf1\n\n2\n",
    b"nan,inf\n",
]
ARRAYS = [np.arange(6, dtype=kind).reshape(2, 3) for kind in (">f4", "<i8", "u1", "g", "<c8", ">u2")]
NPY_SEEDS = [*map(npy, ARRAYS), npy(np.array(["a", "bc"])), npy(np.zeros((0, 3))), npy(np.array([(1, 2.0)], "i4,>f8"))]
MODES = [("L", "PNG"), ("I;16", "PNG"), ("P", "GIF"), ("RGB", "JPEG"), ("F", "TIFF"), ("CMYK", "TIFF"), ("1", "BMP")]
PICTURES = [picture(*one) for one in (*MODES, ("RGBA", "WEBP"), ("I;16", "TIFF"))]
DTYPES = ["", "; dtype=float32", "; dtype=>i2; shape=-1,2", "; dtype=O", "; dtype=U4", "; dtype=i4,f8",
          "; dtype=x; shape=1,,2",
          "; dtype=float64; shape=-1,-1", "; dtype=u1; shape=99999999999,999999999999"]  # fmt: skip

Decode = Callable[[bytes, str], Any]


def decode(body: bytes, kind: str) -> Any:
    return Handler().decode(Request(body, kind))


def rows(body: bytes, kind: str) -> Any:
    return read_rows(Request(body, kind), ["a", "b"], "auto")


def parts(body: bytes, kind: str) -> Any:
    request = Request(body, kind)
    header, records = split(request)
    return [Handler().decode(one) for one in requests_of(request, header.encode(), records)]


def inflate(body: bytes, kind: str) -> Any:
    return inflating.unpacked(Request(body, content_encoding=kind)).body


def opened(body: bytes, kind: str) -> Any:
    return open_image(Request(body, kind))


CODECS: dict[str, tuple[list[bytes], list[str], Decode]] = {
    "json": (JSON_SEEDS, [f"application/json{one}" for one in CHARSETS], decode),
    "json lines": ([b"\n".join(JSON_SEEDS[:4])], [f"application/jsonlines{one}" for one in CHARSETS], decode),
    "records of json": ([b"\n".join(JSON_SEEDS[:4])], [f"application/jsonlines{one}" for one in CHARSETS], parts),
    "csv": (CSV_SEEDS, [f"text/csv{head}{one}" for head in ("", "; header=present") for one in CHARSETS], decode),
    "records of csv": (CSV_SEEDS, [f"text/csv{one}" for one in ("", "; header=present", "; charset=utf-16")], parts),
    "rows": (CSV_SEEDS, [f"text/csv{head}" for head in ("", "; header=present", "; header=x")], rows),
    "text": (JSON_SEEDS + CSV_SEEDS, [f"text/plain{one}" for one in CHARSETS], decode),
    "npy": (NPY_SEEDS, ["application/x-npy"], decode),
    "npz": ([npz(a=ARRAYS[0], b=ARRAYS[1]), npz(x=np.zeros(9))], ["application/x-npz"], decode),
    "raw": (NPY_SEEDS, [f"application/octet-stream{one}" for one in DTYPES], decode),
    "pictures": (PICTURES, ["image/png", "image/x"], decode),
    "pictures of handlers": (PICTURES, ["image/png", "application/x-image"], opened),
    "gzip": ([gzip.compress(b"a" * n) for n in (0, 9, 9999)], ["gzip"], inflate),
    "deflate": ([zlib.compress(b"a" * n) for n in (0, 9, 9999)], ["deflate"], inflate),
}  # fmt: skip


def mutated(seeds: list[bytes], chance: random.Random) -> bytes:
    """Of valid bodies: as it is, cut, with other bits or bytes, parts of one in another, or nothing but noise."""
    body = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(body) + 1)
        match chance.randrange(7):
            case 0:
                del body[at:]
            case 1 if at < len(body):
                body[at] ^= 1 << chance.randrange(8)
            case 2 if at < len(body):
                body[at] = chance.choice(b'\0\xff\n,"[]{}09-.e\x7f\x80')
            case 3:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                body[at:at] = other[start : start + chance.randrange(20)]
            case 4:
                del body[at : at + chance.randrange(8)]
            case 5:
                body[at : at + 4] = chance.randbytes(4)
            case _:
                body = body * 2 if len(body) < 2000 else body
    return bytes(body) if chance.randrange(20) else chance.randbytes(chance.randrange(64))


@pytest.fixture
def _room() -> Iterator[None]:
    claims.set_limit(ROOM)
    inflating.set_limit(ROOM)
    yield
    claims.set_limit(claims.UNLIMITED)
    inflating.set_limit(0)


def try_all(name: str, count: int, seed: int) -> None:
    seeds, kinds, function = CODECS[name]
    chance = random.Random(f"{name} {seed}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = 0
    for _ in range(count):
        body, kind = mutated(seeds, chance), chance.choice(kinds)
        began = time.process_time()
        try:
            function(body if chance.randrange(2) else bytearray(body), kind)  # type: ignore[arg-type]
            values += 1
        except ServingError as error:
            assert error.status < 500, (kind, body, error)
            assert len(error.message) < 700, (kind, body, error)
        except Exception as exc:
            raise AssertionError((kind, body)) from exc
        assert time.process_time() - began < 5.0, (kind, body)
    assert 0 < values < count, "both ways are tried"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 8 * ROOM


@pytest.mark.usefixtures("_room")
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.filterwarnings("ignore")
def test_any_body_gives_a_value_or_a_clients_error(name: str) -> None:
    try_all(name, 400, 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("_room")
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.filterwarnings("ignore")
def test_a_hundred_thousand_bodies_do(name: str) -> None:
    try_all(name, 100_000, 1)


TEXTS, DATES, RECORDS = np.array(["a"]), np.array(["2026-01-02"], "M8[D]"), np.array([(1, 2)], "i4,i4")


@pytest.mark.parametrize("array", [TEXTS, DATES, RECORDS, np.zeros(2, "g"), np.zeros(2, "G"), np.array([b"ab"])])
def test_an_array_that_no_tensor_can_be_is_the_clients_error(array: Any) -> None:
    with pytest.raises(ServingError) as raised:
        decode(npy(array), "application/x-npy")
    assert raised.value.status == 400
    assert str(array.dtype)[:10] in raised.value.message


@pytest.mark.parametrize("dtype", ["?", "u1", ">u2", "u4", ">u8", "i1", ">i8", "f2", ">f4", ">f8", ">c8", "c16"])
@pytest.mark.parametrize("fortran", [False, True])
def test_arrays_of_numbers_are_tensors_whatever_their_order(dtype: str, fortran: bool) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    for body, kind in (
        (npy(array), "application/x-npy"),
        (array.tobytes(), f"application/octet-stream; dtype={dtype}; shape=2,3"),
    ):
        for form in (bytes, bytearray, memoryview):
            sample = Handler().decode(Request(form(body), kind))
            batch = Handler().collate([sample, sample])
            assert batch.tolist() == [array.tolist()] * 2


def test_json_of_all_that_is_deep_or_long_is_bounded() -> None:
    for body in (b"[" * 10**6, b'{"a":' * 10**5, json.dumps([[[]]] * 10**4).encode()):
        try:
            codecs.decode(body, "application/json")
        except ServingError as error:
            assert error.status == 400
