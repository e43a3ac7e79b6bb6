from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serving import errors
from serving.frontend.error_responses import MESSAGE_LIMIT, Failure, json_body


@given(st.text(max_size=3000), st.text(max_size=64))
def test_an_error_body_is_json_below_1_kb_whatever_the_message(message: str, request_id: str) -> None:
    data = json_body(Failure.of(errors.HandlerError(message)), request_id)
    assert len(data) < 1024
    error = json.loads(data)["error"]
    assert (error["code"], error["request_id"]) == ("handler_error", request_id)
    assert message.startswith(error["message"])


def test_a_short_message_is_kept_whole() -> None:
    message = "x" * MESSAGE_LIMIT
    assert json.loads(json_body(Failure.of(errors.BadRequest(message)), "id"))["error"]["message"] == message
