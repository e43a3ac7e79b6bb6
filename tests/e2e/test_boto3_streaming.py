"""boto3 reads answers in pieces from the whole server, as it would from an endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError

from tests.e2e.server import ROOT, Server, eventually, model_folder, serving
from tests.e2e.test_local_runtime import client_of
from tests.e2e.test_streaming import events


@pytest.fixture(scope="module", params=["Streamer", "AsyncStreamer"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("streamer")
    trace = folder / "trace"
    model = model_folder(folder, f"streamer:{request.param}", f'[options]\ntrace = "{trace}"\n')
    with serving(model, local="true", stream_idle_timeout=1.0, stream_timeout=4.0, request_timeout=3.0) as one:
        one.trace = trace  # type: ignore[attr-defined]
        yield one


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    found = client_of(server)
    yield found
    found.close()


def invoke(client: Any, wish: dict[str, Any], **fields: Any) -> Any:
    return client.invoke_endpoint_with_response_stream(EndpointName="desk", Body=json.dumps(wish).encode(), **fields)


def read(answer: Any) -> tuple[bytes, str]:
    """The parts, and the code of the error that ended them."""
    found = b""
    with closing(answer["Body"]) as body:
        try:
            for event in body:
                found += event["PayloadPart"]["Bytes"]
        except EventStreamError as error:
            return found, str(error.response["Error"]["Code"]) + " " + str(error)
    return found, ""


def test_parts_arrive_as_they_are_made(client: Any) -> None:
    late = []
    answer = invoke(client, {"n": 5, "delay": 0.2, "stamp": True, "attributes": "a=1"}, Accept="text/plain")
    assert answer["ContentType"] == "text/plain"
    assert answer["CustomAttributes"] == "a=1"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    with closing(answer["Body"]) as body:
        late = [time.monotonic() - float(event["PayloadPart"]["Bytes"]) for event in body]
    assert len(late) == 5
    assert sorted(late)[2] < 0.1


def test_a_failure_before_the_first_part_is_a_model_error(client: Any) -> None:
    with pytest.raises(ClientError) as info:
        invoke(client, {"n": 2, "fail_at": 0})
    assert info.value.response["Error"]["Code"] == "ModelError"
    assert info.value.response["OriginalStatusCode"] == 500


def test_a_failure_in_the_middle_is_told_twice(client: Any) -> None:
    body, error = read(invoke(client, {"n": 3, "fail_at": 2, "type": "text/event-stream"}))
    assert body.startswith(b"data: 0\n\ndata: 1\n\nevent: error\ndata: ")
    assert "ModelStreamError" in error


def test_a_stream_that_stands_still_took_too_long(client: Any) -> None:
    body, error = read(invoke(client, {"n": 3, "hang_at": 1}))
    assert body == b"0\n"
    assert "ModelStreamError" in error


def test_an_answer_in_pieces_is_an_ordinary_one_to_the_ordinary_call(client: Any) -> None:
    answer = client.invoke_endpoint(EndpointName="desk", Body=b'{"n": 3}')
    assert answer["Body"].read() == b"0\n1\n2\n"
    with pytest.raises(ClientError) as info:
        client.invoke_endpoint(EndpointName="desk", Body=b'{"n": 3, "fail_at": 2}')
    assert "could not load the entire response body" in str(info.value)


def test_a_client_that_closes_the_stream_ends_the_generator(server: Server, client: Any) -> None:
    answer = invoke(client, {"n": 1000, "delay": 0.01}, InferenceId="leaver")
    next(iter(answer["Body"]))
    answer["Body"].close()
    eventually(lambda: "leaver" in events(server, "end"))


def test_the_story_of_the_readme(tmp_path: Path) -> None:
    with serving(ROOT / "examples" / "story", local="true") as server:
        client = client_of(server)
        body, error = read(invoke(client, {"words": 5, "seed": 3}))
        assert (len(body.split()), error) == (5, "")
        client.close()
