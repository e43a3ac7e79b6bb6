"""The doors where a forked child of user code ends: each of their names is one of their owner's."""

from __future__ import annotations

from typing import Any

import pytest

from serving.worker.strays import DOORS


@pytest.mark.parametrize(("owner", "names"), DOORS, ids=lambda value: getattr(value, "__name__", None))
def test_every_door_is_there(owner: Any, names: list[str]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []
