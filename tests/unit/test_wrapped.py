"""Pictures and sounds as browsers, notebooks and other servers' clients send them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from handlers.image_classification import ImageClassificationHandler
from handlers.object_detection import ObjectDetectionHandler
from handlers.wrapped import sniff, unwrapped
from serving import BadRequest, Request, UnsupportedMediaType
from serving.codecs.forms import PARTS, parts_of
from serving.errors import ServingError
from serving.testing import Client
from tests.unit.test_audio_classification import wav


class Brightest(nn.Module):
    """[n, 3, h, w] to the mean of each colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).mean(2)


def picture(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(file, kind)
    return file.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(*parts: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    lines = b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + body + b"\r\n" for head, body in parts)
    return lines + f"--{boundary}--\r\n".encode()


FILE = 'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png'
UNTYPED = 'Content-Disposition: form-data; name="file"; filename="a"'
NAMED = 'Content-Disposition: form-data; name="parameters"'
FIELD = 'Content-Disposition: form-data; name="note"'
MULTIPART = "multipart/form-data; boundary=xyz"
PNG = picture()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("pictures")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Brightest()), str(folder / "model.pt"))
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    return Client(ImageClassificationHandler, folder, size=4, mean=(0, 0, 0), std=(1, 1, 1))


GOOD: dict[str, tuple[str, bytes]] = {
    "octet-stream": ("application/octet-stream", PNG),
    "no type": ("", PNG),
    "no type, with a word": ("", PNG + b"parameters"),
    "utf-16": ("application/json; charset=utf-16le", json.dumps({"b64": b64(PNG)}).encode("utf-16-le")),
    "curl's own": ("application/x-www-form-urlencoded", picture("JPEG")),
    "gif": ("application/octet-stream", picture("GIF")),
    "bmp": ("application/octet-stream", picture("BMP")),
    "tiff": ("application/octet-stream", picture("TIFF")),
    "webp": ("application/octet-stream", picture("WEBP")),
    "b64": ("application/json", json.dumps({"b64": b64(PNG)}).encode()),
    "image b64": ("application/json", json.dumps({"image": {"b64": b64(PNG)}}).encode()),
    "image": ("application/json", json.dumps({"image": b64(PNG)}).encode()),
    "text": ("application/json", json.dumps(b64(PNG)).encode()),
    "torchserve": ("application/json", json.dumps({"instances": [{"data": b64(PNG)}]}).encode()),
    "torchserve kf": ("application/json", json.dumps({"instances": [{"body": b64(PNG)}]}).encode()),
    "tensorflow": ("application/json", json.dumps({"instances": [{"image_bytes": {"b64": b64(PNG)}}]}).encode()),
    "hugging face": ("application/json", json.dumps({"inputs": b64(PNG)}).encode()),
    "data url": ("application/json", json.dumps({"inputs": f"data:image/png;base64,{b64(PNG)}"}).encode()),
    "lines": ("application/json", json.dumps({"b64": base64.encodebytes(PNG).decode()}).encode()),
    "form": (MULTIPART, form((FILE, PNG))),
    "form without a type": (MULTIPART, form((UNTYPED, PNG))),
    "form with parameters": (MULTIPART, form((NAMED, b'{"top_k": 1}'), (FILE, PNG))),
    "another key that is null": ("application/json", json.dumps({"b64": b64(PNG), "image": None}).encode()),
    "quoted boundary": ('multipart/form-data; boundary="x y"', form((FILE, PNG), boundary="x y")),
}
BAD: dict[str, tuple[str, bytes, int, str]] = {
    "unknown bytes": ("application/octet-stream", b"hello", 415, "no picture that is known"),
    "empty": ("application/octet-stream", b"", 415, "no picture that is known"),
    "no base64": ("application/json", b'{"b64": "?"}', 400, "no base64"),
    "two": ("application/json", json.dumps({"instances": [b64(PNG)] * 2}).encode(), 400, "2 pictures"),
    "two keys": ("application/json", json.dumps({"b64": b64(PNG), "image": b64(PNG)}).encode(), 400, "b64, image"),
    "two keys, one a list": (
        "application/json",
        json.dumps({"inputs": b64(PNG), "instances": [b64(PNG)]}).encode(),
        400,
        "inputs, instances",
    ),
    "two keys further in": (
        "application/json",
        json.dumps({"image": {"b64": b64(PNG), "data": b64(PNG)}}).encode(),
        400,
        "b64, data",
    ),
    "form with a field": (
        MULTIPART,
        form((FIELD, b"hello"), (FILE, PNG)),
        400,
        "'note'; known beside the picture: par",
    ),
    "two parameters": (MULTIPART, form((NAMED, b"{}"), (NAMED, b"{}"), (FILE, PNG)), 400, "2 fields parameters"),
    "parameters that are no object": (
        MULTIPART,
        form((NAMED, b"[1]"), (FILE, PNG)),
        400,
        "parameters is a JSON object",
    ),
    "parameters that are no JSON": (MULTIPART, form((NAMED, b"top_k=1"), (FILE, PNG)), 400, "JSON"),
    "nothing": ("application/json", b'{"x": 1}', 400, 'as {"b64": "…"}'),
    "deep": ("application/json", b"[[[[[[1]]]]]]", 400, "b64"),
    "two files": (MULTIPART, form((FILE, PNG), (FILE, PNG)), 400, "the form has 2 files"),
    "no file": (MULTIPART, form(), 400, "0 files"),
    "no boundary": ("multipart/form-data", form((FILE, PNG)), 400, "boundary"),
    "cut": (MULTIPART, form((FILE, PNG))[:-10], 400, "does not end"),
    "not a picture": ("application/json", json.dumps({"b64": b64(b"hello")}).encode(), 415, "no picture"),
}


@pytest.mark.parametrize(("kind", "body"), GOOD.values(), ids=GOOD)
def test_a_picture_is_found_however_it_is_wrapped(client: Client, kind: str, body: bytes) -> None:
    assert client.invoke(body, kind).json()[0]["label"] == "green"


@pytest.mark.parametrize(("kind", "body", "status", "said"), BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_with_a_reason(
    client: Client, kind: str, body: bytes, status: int, said: str
) -> None:
    [outcome] = client.batch([Request(body, kind)])
    assert isinstance(outcome, ServingError)
    assert (outcome.status, said in outcome.message) == (status, True), outcome.message


def test_a_request_may_want_fewer_of_the_best_and_nothing_that_there_is_not(client: Client) -> None:
    def body(**parameters: Any) -> bytes:
        return json.dumps({"inputs": b64(PNG), "parameters": parameters}).encode()

    assert len(client.invoke(body(top_k=2)).json()) == 2
    assert len(client.invoke(body()).json()) == 3
    assert len(client.invoke(body(top_k=2).decode().encode("utf-16"), "application/json").json()) == 2
    for parameters, said in (({"topp": 1}, "'topp'; known: top_k"), ({"top_k": 0}, "top_k is 0; allowed: 1 to")):
        with pytest.raises(BadRequest, match=said):
            client.invoke(body(**parameters))


def test_a_form_may_want_fewer_of_the_best_as_json_may(client: Client) -> None:
    def body(said: bytes) -> bytes:
        return form((FILE, PNG), (NAMED, said))

    assert len(client.invoke(body(b'{"top_k": 2}'), MULTIPART).json()) == 2
    assert len(client.invoke(memoryview(body(b'{"top_k": 1}')), MULTIPART).json()) == 1
    with pytest.raises(BadRequest, match="'topp'; known: top_k"):
        client.invoke(body(b'{"topp": 2}'), MULTIPART)


def test_detectors_and_sounds_take_them_too() -> None:
    assert ObjectDetectionHandler.decode.__module__ == "handlers.object_detection"
    sound = wav(1, 16, b"\0\0" * 100)
    found = unwrapped(Request(json.dumps({"b64": b64(sound)}).encode(), "application/json"), "sound")
    assert (found.content_type, found.body) == ("audio/wav", sound)


@given(st.binary(max_size=300), st.sampled_from([*(kind for kind, _ in GOOD.values()), "text/html"]))
def test_any_body_is_a_picture_or_a_reason(body: bytes, kind: str) -> None:
    with contextlib.suppress(BadRequest, UnsupportedMediaType):
        assert unwrapped(Request(body, kind), "picture").content_type


@given(st.lists(st.binary(max_size=60).filter(lambda one: b"--xyz" not in one), max_size=4))
def test_the_parts_of_a_form_are_what_was_put_in(bodies: list[bytes]) -> None:
    assert [part.value for part in parts_of(form(*((FILE, body) for body in bodies)), MULTIPART)] == bodies


def test_every_kind_of_picture_that_is_known_is_told_by_its_bytes(tmp_path: Path) -> None:
    kinds = {kind: sniff(picture(kind)) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000")}
    assert kinds == {kind: f"image/{kind.lower().replace('jpeg2000', 'jp2')}" for kind in kinds}


def test_a_form_has_no_more_parts_than_are_counted() -> None:
    part = b"--b\r\n\r\n\r\n"
    assert len(parts_of(part * PARTS + b"--b--", "multipart/form-data; boundary=b")) == PARTS
    for count in (PARTS + 1, 2 * PARTS, 1_000_000):
        body = part * count + b"--b--"
        tracemalloc.start()
        try:
            with pytest.raises(BadRequest, match="more than 10000 parts"):
                parts_of(body, "multipart/form-data; boundary=b")
            assert tracemalloc.get_traced_memory()[1] < 3 * len(body) + (8 << 20)
        finally:
            tracemalloc.stop()
