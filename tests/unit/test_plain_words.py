"""What a client is told of its body is in words: names of Python's classes are for the log."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serving import BadRequest, Handler, Request, ServingError, codecs
from serving.codecs.measuring import npz_cost
from serving.supervisor.store.archives import Refused
from serving.testing import Client
from tests.unit.test_archives import LIMITS, extract
from tests.unit.test_toolkit import Rig

CLASS = re.compile(r"\b\w*(Error|Exception|Warning|BadZipFile|Interrupt)\b")


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, kind)
    return buffer.getvalue()


def array(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, np.arange(9.0))
    return buffer.getvalue()


GOOD = {
    "image/png": picture("PNG"),
    "image/jpeg": picture("JPEG"),
    "image/gif": picture("GIF"),
    "image/tiff": picture("TIFF"),
    "application/x-npy": array(np.save),
    "application/x-npz": array(np.savez),
    "application/json": b'{"inputs": [[1.5, 2]]}',
    "application/jsonlines": b"[1]\n[2]\n",
    "text/csv": b'1,2\n"3",4\n',
    "application/octet-stream; dtype=float32; shape=2": bytes(8),
}


def asked(body: bytes, kind: str) -> str:
    try:
        codecs.decode(body, kind)
    except ServingError as exc:
        return exc.message
    return ""


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 400), st.binary(max_size=4))
def test_a_damaged_body_is_told_of_in_words(kind: str, at: int, put: bytes) -> None:
    body = GOOD[kind]
    at %= len(body)
    for one in (body[:at], body[:at] + put + body[at + len(put) :], put):
        assert not CLASS.search(asked(one, kind))


@pytest.mark.parametrize("kind", GOOD)
def test_so_is_one_that_is_none(kind: str) -> None:
    for body in (b"", b"\0", b"x", b"PK\3\4", b"\x93NUMPY\1\0", b"\x93NUMPY\1\0\5\0oops\n", b"\x89PNG\r\n\x1a\n"):
        assert not CLASS.search(asked(body, kind))


def test_so_is_a_matrix_of_scipy_that_is_none() -> None:
    with pytest.raises(BadRequest, match="the body is no npz archive, or a damaged one"):
        npz_cost(b"PK\3\4")


RAISED = [
    (ValueError("no such shape"), "no such shape"),
    (KeyError("image"), "'image' is missing"),
    (json.JSONDecodeError("Expecting value", "x", 0), "Expecting value: line 1 column 1 (char 0)"),
    (zipfile.BadZipFile("File is not a zip file"), "File is not a zip file"),
    (IndexError("list index out of range"), "list index out of range"),
    (TypeError(), "TypeError"),  # there is nothing else
]


@pytest.mark.parametrize(("raised", "told"), RAISED, ids=[type(one).__name__ for one, _ in RAISED])
def test_so_is_what_a_handlers_decode_raises(raised: Exception, told: str) -> None:
    class Wrong(Handler):
        def decode(self, request: Request) -> Any:
            raise raised

        def predict(self, batch: Any) -> Any:
            return batch

    with pytest.raises(ServingError) as caught, Client(Wrong()) as client:
        client.invoke(b"1")
    assert (caught.value.status, caught.value.message) == (400, f"the request could not be decoded: {told}")


def test_so_is_what_a_toolkits_own_reader_raises(tmp_path: Path) -> None:
    script = "def model_fn(model_dir): return 0\ndef predict_fn(data, model): return data\n"
    for kind in ("application/json", "text/csv", "application/x-npy"):
        for body in (b"{", b'"', b"1,2\n3", b"\xff", b"[1e999999]", b"[1" + b"0" * 5000 + b"]"):
            try:
                Rig(tmp_path, script).ask(body, kind)
            except ServingError as exc:
                assert exc.status >= 500 or not CLASS.search(exc.message)


def test_an_archive_is_told_of_in_words(tmp_path: Path) -> None:
    for name, body in (("a.zip", b"PK\3\4"), ("a.tar.gz", b"\x1f\x8b\x08"), ("a.tar", b"x" * 600)):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(Refused) as caught:
            extract(tmp_path / name, tmp_path / f"{name}.out", LIMITS)
        assert not CLASS.search(str(caught.value))
