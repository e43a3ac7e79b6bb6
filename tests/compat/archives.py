"""The archives that both servers are given, written here in the shapes that TorchServe's documentation shows, and the
requests that both are asked."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.mar import pack, write_archive

SHOW = """
    def show(value):
        return [type(value).__name__, value.decode("latin-1") if isinstance(value, bytearray) else value]
    def handle(data, context):
        return data and [{name: show(value) for name, value in row.items()} for row in data]
"""
VALUES = """
    import torch
    from ts.torch_handler.base_handler import BaseHandler
    from ts.utils.util import PredictionException
    VALUES = {
        "bytes": b"abc", "bytearray": bytearray(b"abc"), "text": "h\\u00e4", "empty": "", "none": None, "number": 2.5,
        "list": [1, 2.5, None, True], "dict": {"\\u00e4": [1], "b": {}}, "tensor": torch.arange(6.0).reshape(2, 3),
        "set": {1}, "nan": float("nan"),
    }
    class Values(BaseHandler):
        def initialize(self, context):
            self.initialized = True
        def handle(self, data, context):
            word = data[0]["body"]
            if word == "raise":
                raise ValueError(word)
            if word == "memory":
                raise MemoryError
            if word == "refuse":
                raise PredictionException("no such row", 404)
            if word == "odd":
                return VALUES
            if word == "many":
                return [1, 2]
            if word == "type":
                context.set_response_content_type(0, "text/csv")
            if word == "header":
                context.set_response_header(0, "content-type", "image/png")
            if word == "status":
                context.set_response_status(418, "teapot", 0)
            return [VALUES.get(word, word)]
"""
PIECES = """
    from ts.torch_handler.base_handler import BaseHandler
    from ts.handler_utils.utils import send_intermediate_predict_response
    class Pieces(BaseHandler):
        def initialize(self, context):
            self.initialized = True
        def handle(self, data, context):
            for step in range(4):
                piece = [f"{step} "] * len(data)
                send_intermediate_predict_response(piece, context.request_ids, "more", 200, context)
            return ["end"] * len(data)
"""
NET = """
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)
        def forward(self, x):
            return torch.tanh(self.linear(x))
"""
PLACE = """
    import os
    from pathlib import Path
    def handle(data, context):
        folder = Path(context.system_properties["model_dir"])
        return data and [[Path.cwd().samefile(folder), Path("handler.py").is_file(), str(folder) in os.sys.path]]
"""
WORDS_NET = """
    import torch
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.EmbeddingBag(110, 4)
            self.linear = torch.nn.Linear(4, 3)
        def forward(self, numbers, offsets):
            return self.linear(self.embedding(numbers, offsets))
"""
IDENTITY = "def handle(data, context):\n    return data and list(data)\n"
INPUTS = "def handle(data, context):\n    return data and [one['data'] for one in data]\n"
FIRST = "def handle(data, context):\n    return data and [data[0]['data']]\n"
LABELS = {str(number): ["n0", f"class {number}"] for number in range(8)}


@dataclass(frozen=True)
class Asked:
    model: str
    body: bytes
    content_type: str | None = None
    explain: bool = False


class Classes(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean(dim=(2, 3)))


class Segments(torch.nn.Module):
    """Classes of squares of 28 pixels."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": x.reshape(x.shape[0], 3, 8, 28, 8, 28).mean(dim=(3, 5))}


class Boxes(torch.nn.Module):
    """Three boxes in each picture, of which one scores too low."""

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        boxes = torch.arange(12, dtype=torch.float32).reshape(3, 4)
        labels, scores = torch.tensor([2, 1, 5]), torch.tensor([0.9, 0.25, 0.5])
        return [{"boxes": boxes + image.mean(), "labels": labels, "scores": scores} for image in x]


class Words(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(110, 4)
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, numbers: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embedding(numbers, offsets))


def script(module: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module.eval()), str(path))  # type: ignore[no-untyped-call]


def make_archives(store: Path) -> dict[str | None, list[str]]:
    """Their names by envelope, which their manifests name, and which TorchServe takes from its own settings."""
    torch.manual_seed(3)
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "net.py").write_text(textwrap.dedent(NET))
        Path(scratch, "words.py").write_text(textwrap.dedent(WORDS_NET))
        linear = torch.nn.Linear(3, 2)
        torch.save({f"linear.{name}": value for name, value in linear.state_dict().items()}, Path(scratch, "net.pt"))
        script(Classes(), Path(scratch, "classes.pt"))
        script(Segments(), Path(scratch, "segments.pt"))
        script(Boxes(), Path(scratch, "boxes.pt"))
        words = Words()
        script(words, Path(scratch, "words.pt"))
        torch.save(words.state_dict(), Path(scratch, "state.pt"))
        torch.save({name: number for number, name in enumerate(VOCABULARY)}, Path(scratch, "source_vocab.pt"))
        Path(scratch, "index_to_name.json").write_text(json.dumps(LABELS))
        for name, (code, files, model) in ARCHIVES.items():
            folder = write_archive(store / name, code, model={"modelName": name, **model})
            for file in files:
                shutil.copy(Path(scratch, file), folder)
            pack(folder, store / f"{name}.mar")
    found: dict[str | None, list[str]] = {}
    for name, (_, _, model) in ARCHIVES.items():
        found.setdefault(model.get("envelope"), []).append(name)
    return found


WORDS = ("<unk>", "a", "b", "c", "good", "bad", "film", "is", "not", "was")
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("pictures", "segments", "boxes"), ("torchvision.transforms", "captum.attr")),
    "texts": ("captum.attr",),
    "eagertexts": ("captum.attr",),
}
VOCABULARY = [*WORDS, *(f"{one} {other}" for one in WORDS for other in WORDS)]
EAGER = {"handler": "base_handler", "modelFile": "net.py", "serializedFile": "net.pt", "envelope": "body"}
PICTURES = {"handler": "image_classifier", "serializedFile": "classes.pt"}
SEGMENTS = {"handler": "image_segmenter", "serializedFile": "segments.pt"}
BOXES = {"handler": "object_detector", "serializedFile": "boxes.pt"}
EAGER_TEXTS = {"handler": "text_classifier", "modelFile": "words.py", "serializedFile": "state.pt"}
TEXTS = {"handler": "text_classifier", "serializedFile": "words.pt"}
ARCHIVES: dict[str, tuple[str | None, list[str], dict[str, Any]]] = {
    "show": (SHOW, [], {}),
    "values": (VALUES, [], {"handler": "handler"}),
    "pieces": (PIECES, [], {"handler": "handler.py"}),
    "place": (PLACE, [], {}),
    "eager": (None, ["net.py", "net.pt"], EAGER),
    "pictures": (None, ["classes.pt", "index_to_name.json"], PICTURES),
    "segments": (None, ["segments.pt"], SEGMENTS),
    "boxes": (None, ["boxes.pt", "index_to_name.json"], BOXES),
    "texts": (None, ["words.pt", "source_vocab.pt"], TEXTS),
    "eagertexts": (None, ["words.py", "state.pt", "source_vocab.pt"], EAGER_TEXTS),
    "instances": (IDENTITY, [], {"envelope": "json"}),
    "kserve": (IDENTITY, [], {"envelope": "kserve"}),
    "kservev2first": (FIRST, [], {"envelope": "kservev2"}),
    "kservev2": (INPUTS, [], {"envelope": "kservev2"}),
}


def picture(seed: int, size: tuple[int, int], form: str = "png") -> bytes:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(out, form)
    return out.getvalue()


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nhello\r\n--x\r\nContent-Disposition: form-data; '
    b'name="j"\r\nContent-Type: application/json\r\n\r\n{"x": 1}\r\n--x\r\nContent-Disposition: form-data; name="f"; '
    b'filename="f.json"\r\nContent-Type: application/json\r\n\r\n{"q": 1}\r\n--x\r\nContent-Disposition: form-data; '
    b'name="g"; filename="g.bin"\r\n\r\n\x00\r\n\xff\r\n--x--\r\n'
)
JSON, TEXT = "application/json", "text/plain"
REQUESTS = [
    *(Asked("show", b'{"a": [1, 2.5, null], "\xc3\xa4": true}', kind) for kind in (
        JSON, f"{JSON}; charset=utf-8", "text/csv", "application/octet-stream", "image/png", None
    )),
    Asked("show", b"{broken", JSON),
    Asked("show", b"\x80abc", TEXT),
    Asked("show", b"", JSON),
    Asked("show", b"a=1&b=%C3%A4+x&a=2&c=", "application/x-www-form-urlencoded"),
    Asked("show", FORM, "multipart/form-data; boundary=x"),
    *(Asked("values", word, TEXT) for word in (
        b"bytes", b"bytearray", b"text", b"empty", b"none", b"number", b"list", b"dict", b"tensor", b"set", b"nan",
        b"raise", b"memory", b"refuse", b"odd", b"many", b"type", b"header", b"status",
    )),
    Asked("pieces", b"x", TEXT),
    Asked("place", b"x", TEXT),
    *(Asked("eager", body, JSON) for body in (b"[1.0, 2.0, 3.0]", b"[0.1, -0.2, 1e3]", b"[[1.0, 0.0, 0.0]]", b"[1.0]")),
    Asked("eager", b"[1, 2, 3]", JSON),
    Asked("pictures", picture(1, (300, 260)), "image/png"),
    Asked("pictures", picture(2, (100, 400), "jpeg"), "image/jpeg"),
    Asked("pictures", picture(3, (641, 479), "jpeg"), "application/octet-stream"),
    Asked("pictures", b"no picture", "image/png"),
    Asked("segments", picture(4, (260, 300)), "image/png"),
    Asked("boxes", picture(5, (90, 60)), "image/png"),
    Asked("boxes", picture(6, (64, 480), "jpeg"), "application/octet-stream"),
    Asked("pictures", picture(1, (300, 260)), "image/png", explain=True),
    Asked("texts", b"A good film", TEXT, explain=True),
    Asked("eagertexts", b"A good film", TEXT),
    Asked("eagertexts", b"A good film", TEXT, explain=True),
    Asked("eager", b"[1.0, 2.0, 3.0]", JSON, explain=True),
    Asked("texts", b"A <b>good</b> film isn't bad!", TEXT),
    Asked("texts", b"b c was not good; is good", "application/octet-stream"),
    Asked("texts", b"good", TEXT),
    Asked("instances", b'{"instances": [[1, 2], {"a": "b"}]}', JSON),
    Asked("instances", b'{"instances": ["x"]}', JSON),
    Asked("kserve", b'{"instances": [[1.5, 2], "x"]}', JSON),
    Asked("kserve", b'{"instances": [{"data": [1]}]}', "application/octet-stream"),
    Asked("kserve", b'{"instances": []}', JSON),
    Asked("kservev2", b'{"id": "7", "inputs": [{"name": "x", "shape": [2, 2], "datatype": "INT64", '
          b'"data": [1, 2, 3, 4]}]}', JSON),
    Asked("kservev2first", b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [2.0]}, '
          b'{"name": "y", "shape": [1], "datatype": "INT64", "data": [3]}], "id": "9"}', JSON),
    Asked("kservev2", b'{"id": "8", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [0.5, 2.0]}, '
          b'{"name": "y", "shape": [1], "datatype": "INT64", "data": [3]}]}', JSON),
]  # fmt: skip
