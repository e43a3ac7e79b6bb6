"""The bodies of calls that change the models: JSON whose objects have each key once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from serving.errors import BadRequest
from serving.frontend.api.calls import decode


class Body(msgspec.Struct):
    name: str = ""
    more: Any = None


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "\\u006eame": "a"}',
        b'{"more": [{"x": 1, "y": {"name": 1, "name": 1}}]}',
        b'{"name": "a", "unknown": 1, "unknown": 2}',
    ],
)
def test_a_key_that_comes_twice_is_named(body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"key '(name|unknown)' twice"):
        decode(body, Body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"name": 1}', b"\xff", b'{"unknown":' * 5000 + b"1" + b"}" * 5000]
)
def test_what_is_no_such_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(body, Body)


def test_others_are_read() -> None:
    assert decode(b'{"name": "a", "more": [{"x": 1}, {"x": 2}]}', Body) == Body("a", [{"x": 1}, {"x": 2}])
    assert decode(b'{"unknown": 1e5, "name": "a"}', Body) == Body("a")
