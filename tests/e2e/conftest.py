from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.frames import LIMIT, Host, hosting
from tests.e2e.server import Server, model_folder, serving


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One echo server for a module's tests that do it no harm, on each of its paths; small body limit."""
    folder = model_folder(tmp_path_factory.mktemp("echo"), "echo:Echo")
    with serving(folder, max_body=200_000) as server:
        yield server


@pytest.fixture
def faulty_folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path, "faulty:Faulty")


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Host]:
    with hosting(max_message=LIMIT) as host:
        yield host


@pytest.fixture(scope="module")
def impatient() -> Iterator[Host]:
    with hosting(handshake_time=0.2, close_time=0.2, read_time=0.2) as host:
        yield host


@pytest.fixture
def host(ordinary: Host) -> Host:
    ordinary.forget()
    return ordinary


@pytest.fixture
def hasty(impatient: Host) -> Host:
    impatient.forget()
    return impatient
