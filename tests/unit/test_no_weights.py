"""A file that only stands where weights should be is called what it is, by whoever loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.built import load_module, with_weights
from handlers.checkpoint import load_checkpoint
from serving import load_weights
from serving.adapters.toolkit.sagemaker_inference import default_model_fn
from serving.adapters.torchserve.loading import load_model, load_pickled
from serving.desk.risks import pickles
from serving.errors import ModelError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
FILES = {"": "is empty", POINTER.decode(): "is a Git LFS pointer, not the weights: git lfs pull"}
LOADS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "load_weights": ("model.safetensors", load_weights),
    "load_weights of torch.save": ("model.bin", load_weights),
    "a module of one's own": ("model.pt", lambda path: with_weights(torch.nn.Linear(1, 1), path, "cpu")),
    "a TorchScript file": ("model.pt", lambda path: load_module(path.parent, "cpu", None, False)),
    "an exported program": ("model.pt2", lambda path: load_module(path.parent, "cpu", None, False)),
    "a pickle that may be": ("model.pth", lambda path: load_module(path.parent, "cpu", None, True)),
    "a toolkit script's default": ("model.pth", lambda path: default_model_fn(path.parent, "cpu")),
    "TorchServe's program": ("model.pt", lambda path: load_model(path, "cpu", False)),
    "TorchServe's exported program": ("model.pt2", lambda path: load_model(path, "cpu", True)),
    "TorchServe's state dict": ("model.pth", lambda path: load_pickled(path, "cpu", False)),
    "a checkpoint": ("model.safetensors", lambda path: load_checkpoint("AutoModel", path.parent, torch.float32)),
}


@pytest.mark.parametrize("text", FILES, ids=["empty", "pointer"])
@pytest.mark.parametrize("load", LOADS)
def test_a_file_without_weights_is_called_what_it_is(tmp_path: Path, load: str, text: str) -> None:
    name, function = LOADS[load]
    (tmp_path / name).write_text(text)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        function(tmp_path / name)
    assert str(caught.value) == f"{name} {FILES[text]}"


@pytest.mark.parametrize("text", FILES, ids=["empty", "pointer"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".joblib"])
def test_so_it_is_by_who_looks_over_a_folder(tmp_path: Path, text: str, suffix: str) -> None:
    (tmp_path / f"model{suffix}").write_text(text)
    assert pickles(tmp_path, {}) == [f"model{suffix} {FILES[text]}"]
