"""The demo: it learns the digits, and the picture that people see first is answered rightly."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from serving import BadRequest
from serving.config.config import load
from serving.model.folder import read_model
from serving.testing import Client
from serving.worker.loading.loader import create_handler

ROOT = Path(__file__).parent.parent.parent
PICTURE = ROOT / "examples" / "digit.png"
PICTURED = 3


def train(out: Path, *arguments: str) -> str:
    """What the training script prints."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "digits" / "train.py"), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained just now, and beside it the picture that training it drew."""
    out = tmp_path_factory.mktemp("demo") / "model"
    said = train(out, "--picture", str(out.parent / "digit.png"))
    accuracy = re.search(r"accuracy (\d\.\d+) on 450 held-out digits", said)
    assert accuracy is not None, said
    assert float(accuracy.group(1)) >= 0.97
    return out


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """The model as the server finds it: the handler named in ``serving.toml``, from the folder's ``code``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.delitem(sys.modules, "digits", raising=False)
        model = read_model(folder, "model", load({}), cores=1)
        with Client(create_handler(model), folder) as made:
            yield made
        sys.modules.pop("digits", None)


def ask(client: Client, body: bytes, content_type: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(bytes(client.invoke(body, content_type).body))
    assert len(answer["probabilities"]) == 10
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-3)
    return answer


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]], size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(file, "png")
    return file.getvalue()


def test_the_picture_is_of_the_held_out_digits_and_answered_rightly(client: Client, folder: Path) -> None:
    assert PICTURE.read_bytes() == (folder.parent / "digit.png").read_bytes()
    answer = ask(client, PICTURE.read_bytes(), "image/png")
    assert answer["class"] == PICTURED
    assert answer["probabilities"][PICTURED] > 0.9


def test_an_image_of_any_size_and_colour_and_json_say_the_same(client: Client) -> None:
    image = load_digits().images[0]
    grey = (image * 255 / 16).round().astype(np.uint8)
    expected = ask(client, json.dumps(image.astype(int).tolist()).encode(), "application/json")
    assert expected["class"] == 0
    for body in (png(grey), png(grey, 64), png(grey, 200), png(np.stack([grey] * 3, -1), 80)):
        answer = ask(client, body, "image/png")
        assert answer["class"] == 0
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=0.02)


@pytest.mark.parametrize("body", [b"[1, 2, 3]", b"[[[0]]]", b"7"])
def test_json_of_another_shape_is_a_bad_request(client: Client, body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"8x8"):
        client.invoke(body, "application/json")


def test_a_second_run_trains_nothing(folder: Path) -> None:
    weights = folder / "weights.pt"
    before = weights.stat().st_mtime_ns
    assert "up to date" in train(folder)
    assert weights.stat().st_mtime_ns == before
    assert [entry.name for entry in folder.parent.iterdir() if entry.name.startswith(".")] == []


def test_the_weights_are_plain_tensors(folder: Path) -> None:
    state = torch.load(folder / "weights.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
