"""What a TorchServe handler finds in ``data``: text and JSON as they were meant, in whatever encoding they came."""

from __future__ import annotations

from typing import Any

import pytest

from serving.adapters.torchserve.inputs import call_of
from serving.errors import ServingError
from serving.request import Request

PLAIN, JSON = "text/plain", "application/json"


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        ("é".encode(), PLAIN, "é"),
        (b"\xef\xbb\xbfhi", PLAIN, "hi"),
        (b"caf\xe9", f"{PLAIN}; charset=iso-8859-1", "café"),
        ("Ã©".encode("latin-1"), f"{PLAIN}; charset=iso-8859-1", "Ã©"),
        ("hi".encode("utf-16le"), f"{PLAIN}; charset=utf-16le", "hi"),
        (b'\xef\xbb\xbf{"a": 1}', JSON, {"a": 1}),
        ('["é"]'.encode("utf-16"), JSON, ["é"]),
        (b'["\xe9"]', f"{JSON}; charset=windows-1252", ["é"]),
        (b"\xff\xfa", PLAIN, bytearray(b"\xff\xfa")),
        (b"{", JSON, bytearray(b"{")),
        (b"\xef\xbb\xbf", "application/octet-stream", bytearray(b"\xef\xbb\xbf")),
    ],
)
def test_text_is_what_was_meant(body: bytes, kind: str, seen: Any) -> None:
    assert call_of(Request(body, kind), True).data() == {"body": seen}


@pytest.mark.parametrize(("kind", "status"), [(f"{PLAIN}; charset=us-ascii", 400), (f"{JSON}; charset=utf-9", 415)])
def test_a_charset_that_does_not_fit_is_the_clients_error(kind: str, status: int) -> None:
    with pytest.raises(ServingError) as raised:
        call_of(Request("é".encode(), kind), True)
    assert raised.value.status == status


def test_bytes_stay_as_they_are_where_the_handler_decodes_them() -> None:
    assert call_of(Request(b"\xef\xbb\xbfhi", PLAIN), False).data() == {"body": bytearray(b"\xef\xbb\xbfhi")}
