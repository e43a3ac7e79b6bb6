"""Pictures of any format and size to labels, seen as the model was trained to see them."""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from handlers.image_classification import ImageClassificationHandler
from serving import BadRequest, Request, UnsupportedMediaType
from serving.errors import ModelError
from serving.request import Response
from serving.testing import Client

PLAIN = {"size": 8, "resize": 8, "mean": [0, 0, 0], "std": [1, 1, 1], "outputs": "probabilities"}


class Mean(nn.Module):
    """[n, 3, height, width] to the mean of each channel, [n, 3]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=[2, 3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(Mean()), str(tmp_path / "model.pt"))
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    return tmp_path


def picture(
    color: Any, size: tuple[int, int] = (20, 12), mode: str = "RGB", format: str = "PNG", **words: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, format, **words)
    return buffer.getvalue()


def ask(client: Client, body: bytes, kind: str = "image/png") -> Any:
    return json.loads(bytes(client.invoke(body, kind).body))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_usual_format_is_read(folder: Path, format: str) -> None:
    body = picture((255, 0, 0), format=format)
    with Client(ImageClassificationHandler, folder, topk=2, **PLAIN) as client:
        for kind in (f"image/{format.lower()}", "application/x-image"):
            best, second = ask(client, body, kind)
            assert best == {"label": "red", "score": pytest.approx(1, abs=0.02)}
            assert second["score"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("mode", "color"), [("L", 255), ("1", 1), ("P", 0), ("RGBA", (0, 0, 255, 128)), ("CMYK", (0, 0, 0, 0)), ("I;16", 9)]
)
def test_every_mode_becomes_rgb(folder: Path, mode: str, color: Any) -> None:
    with Client(ImageClassificationHandler, folder, **PLAIN) as client:
        format = "TIFF" if mode == "CMYK" else "PNG"
        assert len(ask(client, picture(color, mode=mode, format=format))) == 3


def test_arrays_are_pictures_too(folder: Path) -> None:
    def npy(array: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    green = np.zeros((30, 10, 3), np.uint8)
    green[..., 1] = 255
    with Client(ImageClassificationHandler, folder, **PLAIN) as client:
        assert ask(client, npy(green), "application/x-npy")[0] == {"label": "green", "score": 1.0}
        with pytest.raises(BadRequest, match=r"not float64 \[3, 3, 3\]"):
            client.invoke(npy(np.zeros((3, 3, 3))), "application/x-npy")
        with pytest.raises(BadRequest, match="0 x 5 pixels"):
            client.invoke(npy(np.zeros((0, 5, 3), np.uint8)), "application/x-npy")


def test_the_middle_is_seen_as_if_resized_and_then_cut(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    image = Image.fromarray(noise).resize((640, 360), Image.Resampling.BICUBIC)
    handler = ImageClassificationHandler()
    handler.load(folder, "cpu", size=64, resize=72)
    seen = np.asarray(handler.crop(image), np.float32)
    resized = image.resize((128, 72), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((32, 4, 96, 68)), np.float32)
    assert np.abs(seen - expected).max() <= 2


def test_a_large_jpeg_is_read_small_and_looks_the_same(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(noise).resize((1600, 900), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=95)
    handler = ImageClassificationHandler()
    handler.load(folder, "cpu", size=64)
    seen = handler.decode(Request(buffer.getvalue(), "image/jpeg")).float()
    expected = torch.from_numpy(np.array(handler.crop(image))).permute(2, 0, 1).float()
    assert (seen - expected).abs().mean() < 1.5


def test_a_picture_that_lies_on_its_side_is_turned(folder: Path) -> None:
    left_red = Image.new("RGB", (16, 8), (0, 0, 255))
    left_red.paste((255, 0, 0), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is left in the file is on top
    buffer = io.BytesIO()
    left_red.save(buffer, "JPEG", exif=exif, quality=95)
    handler = ImageClassificationHandler()
    handler.load(folder, "cpu", size=8, resize=8)
    seen = handler.decode(Request(buffer.getvalue(), "image/jpeg"))
    assert seen[0, 0].float().mean() > 200 > 60 > seen[0, -1].float().mean()


def test_requests_of_unequal_sizes_share_a_batch_and_a_bad_one_fails_alone(folder: Path) -> None:
    requests = [Request(picture((255, 0, 0), (9, 30)), "image/png"), Request(picture((0, 0, 255)), "image/png")]
    with Client(ImageClassificationHandler, folder, topk=1, **PLAIN) as client:
        first, second, third = client.batch([*requests, Request(b"\x89PNG nonsense", "image/png")])
    assert isinstance(first, Response)
    assert isinstance(second, Response)
    assert (json.loads(bytes(first.body))[0]["label"], json.loads(bytes(second.body))[0]["label"]) == ("red", "blue")
    assert isinstance(third, BadRequest)


def test_a_cut_off_file_and_other_types_are_refused(folder: Path) -> None:
    with Client(ImageClassificationHandler, folder, **PLAIN) as client:
        with pytest.raises(BadRequest, match="no image that can be read"):
            client.invoke(picture((1, 2, 3), (400, 400), format="JPEG")[:-300], "image/jpeg")
        with pytest.raises(UnsupportedMediaType, match="text/plain is no image"):
            client.invoke(b"hello", "text/plain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0; allowed: 1 to 8192"),
        ({"size": 2.5}, "an integer"),
        ({"size": 64, "resize": 32}, "resize is 32; allowed: 64 to"),
        ({"std": [1, 1, 0]}, "std is"),
        ({"mean": [1]}, "mean is"),
        *[
            ({name: value}, f"{name} is")
            for name in ("mean", "std")
            for value in (
                0.5,
                None,
                "abc",
                [1, 2, "x"],
                [1, True, 1],
                [1, None, 1],
                [1, 2, math.nan],
                {"a": 1, "b": 2, "c": 3},
            )
        ],
        ({"outputs": "odds"}, "outputs is 'odds'"),
    ],
)
def test_options_are_checked_when_the_model_loads(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Client(ImageClassificationHandler, folder, **options)


def test_labels_that_do_not_exclude_each_other(folder: Path) -> None:
    with Client(ImageClassificationHandler, folder, **{**PLAIN, "outputs": "independent"}) as client:
        assert [one["score"] for one in ask(client, picture((255, 255, 0)))] == pytest.approx(
            [0.731, 0.731, 0.5], abs=1e-3
        )


def test_a_module_exported_for_one_picture_is_given_one_at_a_time(tmp_path: Path) -> None:
    for size in (1, 4):
        program = torch.export.export(Mean(), (torch.zeros(size, 3, 8, 8),))
        torch.export.save(program, tmp_path / f"{size}.pt2")
    with Client(ImageClassificationHandler, tmp_path, file="1.pt2", **PLAIN) as client:
        assert client.handler.policy.max_size == 1
        outcomes = client.batch([Request(picture((255, 0, 0)), "image/png")] * 2)
        assert all(isinstance(one, Response) for one in outcomes)
    with pytest.raises(ModelError, match="batches of exactly 4"):
        Client(ImageClassificationHandler, tmp_path, file="4.pt2", **PLAIN)
