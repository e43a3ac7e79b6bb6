from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, model_folder, serving


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One echo server for a module's tests that do it no harm; small body limit."""
    folder = model_folder(tmp_path_factory.mktemp("echo"), "echo:Echo")
    with serving(folder, max_body=200_000) as server:
        yield server


@pytest.fixture
def faulty_folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path, "faulty:Faulty")
