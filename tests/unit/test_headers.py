"""The headers of InvokeEndpoint: what each may hold, and what the client is told of what it may not."""

from __future__ import annotations

import pytest

from serving.errors import BadRequest
from serving.http.headers import ACCEPT, CONTENT_TYPE, HEADERS, check_all
from serving.request import Request

GOOD = {
    "custom-attributes": ["", "k=v", "x" * 1024, "a\tb"],
    "target-model": ["a.tar.gz", "dir/a model.tar.gz", "x" * 1024],
    "target-variant": ["v1", "my-variant", "x" * 63],
    "target-container-hostname": ["second", "a-b"],
    "inference-id": ["1", "any thing: printable!", "x" * 64],
    "enable-explanations": ["`true`", "[?a==`1`]", "x" * 64],
    "inference-component": ["c1", "a--b"],
    "prefix-aware-id": ["tenant 1", "x" * 64],
    "session-id": ["NEW_SESSION", "0f9a-11", "x" * 256],
}
BAD = {
    "custom-attributes": ["x" * 1025, "ü"],
    "target-model": [" a", "a\tb", "x" * 1025, "ü"],
    "target-variant": ["-v", "v-", "a_b", "x" * 64],
    "target-container-hostname": ["a.b", "x" * 64],
    "inference-id": [" 1", "x" * 65, "a\nb"],
    "enable-explanations": ["x" * 65, "\x01"],
    "inference-component": ["-c", "x" * 64],
    "prefix-aware-id": [" 1", "x" * 65],
    "session-id": ["a_b", "a.b", "-a", "x" * 257, "new session"],
}
CASES = {True: GOOD, False: BAD}


def test_every_header_of_the_table_is_tried() -> None:
    assert set(GOOD) == set(BAD) == set(HEADERS)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in GOOD for value in GOOD[name]])
def test_what_the_platform_allows_is_taken(name: str, value: str) -> None:
    check_all("", "", {name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_what_the_platform_refuses_is_refused_by_the_name_that_clients_use(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"^{HEADERS[name].name} is "):
        check_all("", "", {name: value})


def test_content_type_and_accept_are_checked_and_unknown_headers_are_not() -> None:
    check_all("application/json; charset=utf-8", "*/*", {"whatever": "ü" * 5000})
    for content_type, accept, field in (("x" * 1025, "", CONTENT_TYPE), ("", "ü", ACCEPT)):
        with pytest.raises(BadRequest, match=f"^{field.name} is "):
            check_all(content_type, accept, {})


def test_a_traceparent_in_the_custom_attributes_is_found_if_it_is_one() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    request = Request(sagemaker={"custom-attributes": f"a=b, traceparent=00-{trace}-00f067aa0ba902b7-01"})
    assert (request.traceparent, request.trace_id) == (f"00-{trace}-00f067aa0ba902b7-01", trace)
    for value in ("", "traceparent=", "traceparent=00-xyz", f"traceparent=00-{'0' * 32}-00f067aa0ba902b7-01"):
        assert Request(sagemaker={"custom-attributes": value}).trace_id is None
