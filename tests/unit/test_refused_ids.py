"""A request has one id, the same in the header and the body of its answer, whatever bytes its client has sent."""

from __future__ import annotations

import json

import pytest

from serving.errors import BadRequest
from serving.frontend.error_responses import Failure, json_body
from serving.frontend.http.headers import id_of, read_headers, request_id_header
from serving.frontend.http.refusal import refusal

NAME = b"x-amzn-sagemaker-inference-id"
SENT = [bytes([byte]) for byte in (*range(0x20, 0x7F), *range(0x80, 0x100), 0x09)]
SENT += [b"caf\xe9", "café".encode(), b"\xe9" * 70, b"a" * 63 + b"\xe9\xe9", b"\xa0", b"\xad", b"\x85"]


@pytest.mark.parametrize("value", SENT)
def test_header_and_body_have_the_same_printable_id(value: bytes) -> None:
    headers = [(NAME, value)]
    head, _, content = refusal(BadRequest("no"), headers, []).partition(b"\r\n\r\n")
    [line] = [one for one in head.split(b"\r\n") if one.startswith(b"x-request-id: ")]
    request_id = id_of(read_headers(headers)[2], lambda: "new")
    answered = [
        (line.partition(b": ")[2], json.loads(content)),
        (request_id_header(request_id)[1], json.loads(json_body(Failure.of(BadRequest("no")), request_id))),
    ]
    for shown, told in answered:
        assert told["error"]["request_id"].encode() == shown
        assert all(0x20 <= byte <= 0x7E for byte in shown)
        assert 1 <= len(shown) <= 64
    assert answered[0][0] == answered[1][0]
