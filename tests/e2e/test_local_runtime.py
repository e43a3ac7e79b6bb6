"""boto3 calls the server on a desk as it calls an endpoint: every field in and out, and every error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config as ClientConfig
from botocore.exceptions import ClientError

from tests.e2e.server import Server, model_folder, serving
from tests.e2e.store import add_model


def client_of(server: Server) -> Any:
    return boto3.client(
        "sagemaker-runtime",
        region_name="eu-west-1",
        endpoint_url=f"http://127.0.0.1:{server.port}",
        aws_access_key_id="any",
        aws_secret_access_key="thing",
        config=ClientConfig(retries={"max_attempts": 0}, parameter_validation=False),
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = model_folder(tmp_path_factory.mktemp("mirror"), "mirror:Mirror")
    with serving(folder, local="true", request_timeout=2) as server:
        found = client_of(server)
        yield found
        found.close()


def invoke(client: Any, body: object = None, **fields: Any) -> Any:
    """The answer, with its body read as JSON under ``Seen``."""
    data = json.dumps(body or {}) if not isinstance(body, bytes) else body
    answer = client.invoke_endpoint(EndpointName="my-endpoint", Body=data, **fields)
    return {**answer, "Seen": json.loads(answer["Body"].read())}


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [
        ("ContentType", "application/json; charset=utf-8", "content_type"),
        ("Accept", "application/json", "accept"),
        ("CustomAttributes", "trace=1; route=/x", "custom_attributes"),
        ("TargetModel", "dir/model.tar.gz", "target_model"),
        ("TargetVariant", "variant-1", "target_variant"),
        ("TargetContainerHostname", "second", "target_container_hostname"),
        ("InferenceId", "my id 7", "inference_id"),
        ("EnableExplanations", "`true`", "enable_explanations"),
        ("InferenceComponentName", "component-1", "inference_component"),
    ],
)
def test_every_field_reaches_the_handler(client: Any, field: str, value: str, seen: str) -> None:
    assert invoke(client, **{field: value})["Seen"][seen] == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ContentType", "x" * 1025),
        ("Accept", "x" * 1025),
        ("CustomAttributes", "x" * 1025),
        ("TargetModel", "x" * 1025),
        ("TargetVariant", "a_b"),
        ("TargetContainerHostname", "a.b"),
        ("InferenceId", "x" * 65),
        ("EnableExplanations", "x" * 65),
        ("InferenceComponentName", "-x"),
        ("SessionId", "a_b"),
        ("EndpointName", "a_b"),
    ],
)
def test_every_field_is_refused_as_the_platform_would(client: Any, field: str, value: str) -> None:
    fields = {"EndpointName": "my-endpoint", "Body": b"{}", field: value}
    with pytest.raises(ClientError) as failure:
        client.invoke_endpoint(**fields)
    error = failure.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("ValidationError", 400)
    assert field in error["Error"]["Message"]


def test_every_field_comes_back(client: Any) -> None:
    answer = invoke(client, {"type": "text/x-thing", "attributes": "k=v"})
    assert answer["ContentType"] == "text/x-thing"
    assert answer["CustomAttributes"] == "k=v"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert "NewSessionId" not in answer
    assert invoke(client, TargetVariant="blue")["InvokedProductionVariant"] == "blue"


def test_an_empty_body_reaches_the_handler(client: Any) -> None:
    assert invoke(client, b"")["Seen"]["body"] == 0


def test_the_inference_id_is_the_request_id_and_a_trace_is_found(client: Any) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    attributes = f"traceparent=00-{trace}-00f067aa0ba902b7-01"
    seen = invoke(client, InferenceId="abc", CustomAttributes=attributes)["Seen"]
    assert (seen["request_id"], seen["trace_id"]) == ("abc", trace)


def test_a_session_is_opened_continued_and_closed(client: Any) -> None:
    opened = invoke(client, SessionId="NEW_SESSION")
    id, _, expires = opened["NewSessionId"].partition("; Expires=")
    assert expires.endswith("Z")
    continued = invoke(client, SessionId=id)
    assert continued["Seen"]["session"] == id
    assert "NewSessionId" not in continued
    closed = invoke(client, {"requestType": "CLOSE"}, SessionId=id)
    assert closed["ClosedSessionId"] == id
    with pytest.raises(ClientError) as failure:
        invoke(client, SessionId=id)
    assert failure.value.response["OriginalStatusCode"] == 400
    assert json.loads(failure.value.response["OriginalMessage"])["error"]["code"] == "session_closed"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"do": "refuse"}, 400, "bad_request"),
        ({"do": "fail"}, 500, "handler_error"),
        ({"sleep": 10}, 504, "deadline_exceeded"),
    ],
)
def test_what_the_container_says_becomes_a_model_error(client: Any, body: object, status: int, code: str) -> None:
    with pytest.raises(client.exceptions.ModelError) as failure:
        invoke(client, body)
    error = failure.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error["OriginalStatusCode"] == status
    assert json.loads(error["OriginalMessage"])["error"]["code"] == code
    assert f"({status}) from primary" in error["Error"]["Message"]
    assert error["LogStreamArn"].startswith("arn:aws:logs:")
    assert "secret" not in error["OriginalMessage"]


def test_a_model_that_is_still_loading_is_not_ready(tmp_path: Path) -> None:
    add_model(tmp_path, "slow", seconds=2.0)
    with serving(tmp_path, model_store=tmp_path, local="true", request_timeout=1) as server:
        client = client_of(server)
        with pytest.raises(client.exceptions.ModelNotReadyException) as failure:
            invoke(client, TargetModel="slow.tar.gz")
        assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
        client.close()


def test_without_the_switch_there_is_no_such_path(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "mirror:Mirror")) as server:
        client = client_of(server)
        with pytest.raises(ClientError) as failure:
            invoke(client)
        assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
        client.close()
