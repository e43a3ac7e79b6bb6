"""Bodies as clients send them, packed and in other encodings, over HTTP to a handler that says what it got."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.server import Server, model_folder, serving

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("squares"), "squares:Squares")
    with serving(folder, max_body=f"{MIB}") as one:
        yield one


@pytest.fixture
def connection(server: Server) -> Iterator[http.client.HTTPConnection]:
    one = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    yield one
    one.close()


def call(connection: http.client.HTTPConnection, body: Any, kind: str, encoding: str | None) -> tuple[int, Any]:
    headers = {"Content-Type": kind} | ({} if encoding is None else {"Content-Encoding": encoding})
    connection.request("POST", "/invocations", body, headers, encode_chunked=not isinstance(body, bytes))
    with connection.getresponse() as answer:
        return answer.status, json.loads(answer.read())


def test_packed_bodies_are_unpacked_beside_others_on_one_connection(connection: http.client.HTTPConnection) -> None:
    packed = gzip.compress(b"[2, 3]")
    for body, encoding in [
        (b"[2, 3]", None), (packed, "gzip"), (packed, "X-GZIP"), (b"[2, 3]", "identity"), (b"[2, 3]", None),
        (zlib.compress(b"[2, 3]"), "deflate"), (iter([packed[:5], packed[5:]]), "gzip"), (b"[2, 3]", None),
    ]:  # fmt: skip
        assert call(connection, body, "application/json", encoding) == (200, [4, 9])
    assert call(connection, gzip.compress("[2]".encode("utf-16")), "application/json", "gzip") == (200, [4])


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip"])
def test_what_cannot_be_unpacked_is_415_and_named(connection: http.client.HTTPConnection, encoding: str) -> None:
    for kind in ("application/json", "application/octet-stream", "text/csv"):
        status, body = call(connection, b"[2, 3]", kind, encoding)
        assert (status, body["error"]["code"]) == (415, "unsupported_media_type")
        assert encoding in body["error"]["message"]


def test_what_is_not_packed_so_is_400_and_a_bomb_413(connection: http.client.HTTPConnection) -> None:
    assert call(connection, b"[2, 3]", "application/json", "gzip")[0] == 400
    assert call(connection, gzip.compress(b"[2, 3]")[:-3], "application/json", "gzip")[0] == 400
    assert call(connection, gzip.compress(bytes(64 * MIB)), "application/octet-stream", "gzip")[0] == 413
    assert call(connection, b"[2, 3]", "application/json", None) == (200, [4, 9])


def test_charsets_and_marks(connection: http.client.HTTPConnection) -> None:
    assert call(connection, b"\xef\xbb\xbf[2, 3]", "application/json", None) == (200, [4, 9])
    assert call(connection, "[2]".encode("utf-16le"), "application/json; charset=utf-16le", None) == (200, [4])
    status, body = call(connection, b"[2]", "application/json; charset=utf-9", None)
    assert (status, "utf-9" in body["error"]["message"]) == (415, True)
