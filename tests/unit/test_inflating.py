"""Bodies that come packed: they are what they were, or the client is told why not; the memory of all is bounded."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import Handler, claims
from serving.errors import BadRequest, BodyTooLarge, ServingError, UnsupportedMediaType
from serving.http.encodings import known_encoding
from serving.request import Request
from serving.testing import Client
from serving.worker.batching.batcher import Item
from serving.worker.engine import inflating
from serving.worker.engine.decoding import decode


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


WAYS = {"gzip": gzip.compress, "deflate": zlib.compress, "deflate without its head": bare}


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    yield
    claims.set_limit(claims.UNLIMITED)
    inflating.set_limit(0)


def ask(body: bytes, encoding: str, content_type: str = "application/octet-stream") -> Any:
    return inflating.unpacked(Request(body, content_type, content_encoding=encoding)).body


@pytest.mark.parametrize("way", WAYS)
@given(st.binary(max_size=3000), st.integers(0, 50))
def test_what_was_packed_comes_out(way: str, data: bytes, times: int) -> None:
    assert ask(WAYS[way](data * times), way.split()[0]) == data * times


def test_a_gzip_body_may_have_many_parts_and_zeros_of_none() -> None:
    assert ask(gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b" * 10**6), "gzip") == b"a" + b"b" * 10**6
    with pytest.raises(BadRequest, match="parts"):
        ask(gzip.compress(b"") * 20_000, "gzip")


@pytest.mark.parametrize("way", WAYS)
def test_what_ends_early_is_broken_or_has_something_behind_it_is_refused(way: str) -> None:
    packed, encoding = WAYS[way](bytes(range(256)) * 100), way.split()[0]
    for at in range(len(packed)):
        with pytest.raises(BadRequest):
            ask(packed[:at], encoding)
    with pytest.raises(BadRequest):
        ask(packed + b"more", encoding)
    with pytest.raises(BadRequest):
        ask(b"[1, 2]", encoding)
    if way != "deflate without its head":  # which has no sum over its bytes
        for at in range(12, len(packed)):
            broken = bytearray(packed)
            broken[at] ^= 0x55
            with pytest.raises(BadRequest):
                ask(bytes(broken), encoding)


@pytest.mark.parametrize("way", WAYS)
def test_a_bomb_is_refused_before_its_memory_is_taken(way: str) -> None:
    bomb = WAYS[way](bytes(1 << 28))
    claims.own.holder = Item(0, Request())
    tracemalloc.start()
    try:
        for limit, room in ((4 << 20, claims.UNLIMITED), (0, 4 << 20)):
            inflating.set_limit(limit)
            claims.set_limit(room)
            with pytest.raises(BodyTooLarge):
                ask(bomb, way.split()[0])
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
        claims.own.holder = None


def test_the_unpacked_body_counts_as_memory_until_it_is_answered() -> None:
    data = np.zeros(1 << 20, np.float32)
    buffer = io.BytesIO()
    np.save(buffer, data)
    before = claims.held()
    request = Request(gzip.compress(buffer.getvalue()), "application/x-npy", content_encoding="gzip")
    item = Item(0, request)
    assert decode(Handler(), item).error is None
    assert item.sample.tolist() == data.tolist()
    assert data.nbytes <= claims.held() - before <= 3 * data.nbytes
    claims.release([item])
    assert claims.held() == before


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("X-GZip", "gzip"),
        (" deflate ", "deflate"),
        ("identity, gzip", "gzip"),
    ],
)
def test_names_of_encodings(header: str, known: str) -> None:
    assert known_encoding(header) == known


@pytest.mark.parametrize("header", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "aws-chunked", "x" * 999])
def test_unknown_ones_are_named(header: str) -> None:
    with pytest.raises(UnsupportedMediaType) as raised:
        known_encoding(header)
    assert header[:20] in raised.value.message
    assert "gzip, deflate" in raised.value.message


class Mirror(Handler):
    def bucket(self, sample: Any) -> Any:
        return ()

    def collate(self, samples: Any) -> Any:
        return samples

    def predict(self, batch: Any) -> Any:
        return batch

    def encode(self, output: Any, request: Request) -> Any:
        return {"sample": output.tolist(), "body": len(request.body), "encoding": request.content_encoding}


def test_a_handler_sees_the_body_as_it_was() -> None:
    body = gzip.compress(b"[1, 2]")
    good, bad, plain = Client(Mirror).batch(
        [Request(body, content_encoding="gzip"), Request(b"[1, 2]", content_encoding="gzip"), Request(b"[1, 2]")]
    )
    assert json.loads(bytes(good.body)) == json.loads(bytes(plain.body))  # type: ignore[union-attr]
    assert json.loads(bytes(good.body)) == {"sample": [1, 2], "body": 6, "encoding": ""}  # type: ignore[union-attr]
    assert isinstance(bad, ServingError)
    assert (bad.status, bad.message) == (400, "the body is no gzip")
