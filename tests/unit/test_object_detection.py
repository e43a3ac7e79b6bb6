"""What torchvision's detectors give becomes labels and boxes in the pixels that the client knows."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from handlers.object_detection import ObjectDetectionHandler
from serving import BadRequest, Request
from serving.errors import ModelError, ServingError
from serving.request import Response
from serving.testing import Client


class Halves(nn.Module):
    """The left half of each picture, with its brightness as the score; and the whole, with little."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = []
        for image in images:
            height, width = float(image.shape[1]), float(image.shape[2])
            boxes = torch.tensor([[0.0, 0.0, width, height], [0.0, 0.0, width / 2, height]])
            scores = torch.stack([torch.tensor(0.1), image.mean()])
            found.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": scores})
        return found


class Scripted(nn.Module):
    """As a scripted detector of torchvision: its losses first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Halves()

    def forward(self, images: list[Tensor]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        return {}, self.inner(images)


class Stacked(nn.Module):
    """[n, 3, height, width] to stacked tensors."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        n = len(images)
        boxes = torch.tensor([[[0.0, 0.0, 1.0, 2.0]]]).expand(n, 1, 4)
        scores = images.mean(dim=[1, 2, 3])[:, None]
        return {"boxes": boxes, "labels": torch.ones(n, 1, dtype=torch.int64), "scores": scores}


def write(folder: Path, module: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(module), str(folder / "model.pt"))
    (folder / "labels.txt").write_text("background\nwhole\nhalf\n")
    return folder


def picture(size: tuple[int, int], grey: int = 255, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(buffer, format)
    return buffer.getvalue()


def ask(client: Client, body: bytes) -> Any:
    return json.loads(bytes(client.invoke(body, "image/png").body))


@pytest.mark.parametrize("module", [Halves, Scripted])
def test_objects_have_label_score_and_box_best_first(tmp_path: Path, module: type[nn.Module]) -> None:
    client = Client(ObjectDetectionHandler, write(tmp_path, module()), threshold=0.05)
    assert ask(client, picture((40, 20))) == [
        {"label": "half", "score": 1.0, "box": [0, 0, 20, 20]},
        {"label": "whole", "score": pytest.approx(0.1), "box": [0, 0, 40, 20]},
    ]


def test_weak_objects_and_too_many_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, Halves())
    assert len(ask(Client(ObjectDetectionHandler, folder), picture((40, 20)))) == 1
    assert ask(Client(ObjectDetectionHandler, folder), picture((40, 20), grey=0)) == []
    assert len(ask(Client(ObjectDetectionHandler, folder, threshold=0, max_objects=1), picture((40, 20)))) == 1


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_boxes_are_in_pixels_of_the_picture_as_sent(tmp_path: Path, format: str) -> None:
    client = Client(ObjectDetectionHandler, write(tmp_path, Halves()), max_side=100)
    [found] = ask(client, picture((1000, 333), format=format))
    assert found["box"] == [0, 0, 500, 333]


def test_pictures_of_all_sizes_share_a_batch_where_the_module_takes_a_list(tmp_path: Path) -> None:
    client = Client(ObjectDetectionHandler, write(tmp_path, Halves()))
    outcomes = client.batch([Request(picture(size), "image/png") for size in ((10, 20), (30, 40))])
    boxes = [json.loads(bytes(one.body))[0]["box"] for one in outcomes if isinstance(one, Response)]
    assert boxes == [[0, 0, 5, 20], [0, 0, 15, 40]]
    handler = client.handler
    samples = [handler.decode(Request(picture(size), "image/png")) for size in ((10, 20), (30, 40))]
    assert handler.bucket(samples[0]) == handler.bucket(samples[1])


def test_a_module_that_takes_a_tensor_gets_equal_sizes(tmp_path: Path) -> None:
    client = Client(ObjectDetectionHandler, write(tmp_path, Stacked()), takes="batch")
    outcomes = client.batch([Request(picture(size), "image/png") for size in ((10, 20), (30, 40), (10, 20))])
    assert [json.loads(bytes(one.body)) for one in outcomes if isinstance(one, Response)] == [
        [{"label": "whole", "score": 1.0, "box": [0, 0, 1, 2]}]
    ] * 3


def test_what_is_no_picture_fails_alone(tmp_path: Path) -> None:
    client = Client(ObjectDetectionHandler, write(tmp_path, Halves()))
    good, bad = client.batch([Request(picture((8, 8)), "image/png"), Request(b"GIF89a", "image/gif")])
    assert isinstance(good, Response)
    assert isinstance(bad, BadRequest)


def test_a_module_that_gives_something_else_is_an_error_of_the_model(tmp_path: Path) -> None:
    client = Client(ObjectDetectionHandler, write(tmp_path, nn.Identity()))
    with pytest.raises(ServingError) as caught:
        ask(client, picture((8, 8)))
    assert caught.value.status == 500


def test_options_are_checked_when_the_model_loads(tmp_path: Path) -> None:
    folder = write(tmp_path, Halves())
    for options, message in (
        ({"takes": "all"}, "takes is 'all'; allowed: list, batch"),
        ({"threshold": 2}, "threshold is 2; allowed: 0 to 1"),
        ({"max_objects": 0}, "max_objects is 0"),
    ):
        with pytest.raises(ModelError, match=message):
            Client(ObjectDetectionHandler, folder, **options)
