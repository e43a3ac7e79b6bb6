from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.e2e.server import Server, model_folder, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="this machine shows no CUDA device")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available() and "TEST_DEVICE" not in os.environ:
                item.add_marker(skip)


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    """A folder with a model that uses the GPU as it is told."""
    return model_folder(tmp_path, "chip:Chip")


@pytest.fixture
def server(chip: Path) -> Iterator[Server]:
    with serving(chip, device="cuda:0", request_timeout=20) as server:
        yield server
