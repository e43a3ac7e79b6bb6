"""docs/architecture.md names code that is there."""

from __future__ import annotations

import importlib
import re
from operator import attrgetter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMES = sorted({*re.findall(r"`(serving\.[\w.]+(?::[\w.]+)?)`", PAGE)} - {"serving.toml"})
PATHS = sorted(set(re.findall(r"`((?:serving|tests)/[\w./]*)`", PAGE)))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_is_there(name: str) -> None:
    module, _, member = name.partition(":")
    found = importlib.import_module(module)
    assert not member or attrgetter(member)(found) is not None


@pytest.mark.parametrize("path", PATHS)
def test_so_is_every_file_and_folder(path: str) -> None:
    assert (ROOT / path).exists()
    assert len(NAMES) > 25
