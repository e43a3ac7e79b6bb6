"""boto3 calls the server on a desk as it calls an endpoint: every field in and out, and every error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from botocore.config import Config as ClientConfig
from botocore.exceptions import ClientError

from tests.e2e.server import Server, eventually, model_folder, serving
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
    base = tmp_path_factory.getbasetemp()
    (base / "in").mkdir()
    with serving(folder, local="true", request_timeout=2, local_input=base / "in", local_output=base / "out") as server:
        found = client_of(server)
        yield found
        found.close()


@pytest.fixture
def inputs(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "in"


@pytest.fixture
def outputs(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "out"


def invoke(client: Any, body: object = None, **fields: Any) -> Any:
    """The answer, with its body read as JSON under ``Seen``."""
    data = json.dumps(body or {}) if not isinstance(body, bytes) else body
    answer = client.invoke_endpoint(EndpointName="my-endpoint", Body=data, **fields)
    return {**answer, "Seen": json.loads(answer["Body"].read())}


def submit(client: Any, **fields: Any) -> Any:
    return client.invoke_endpoint_async(**{"EndpointName": "my-endpoint", **fields})


def path_of(url: str) -> Path:
    return Path(unquote(url.removeprefix("file://")))


def outcome(answer: Any, member: str = "OutputLocation") -> Any:
    """What the call has left, read as JSON."""
    path = path_of(answer[member])
    eventually(path.exists)
    return json.loads(path.read_bytes())


def refusal(client: Any, **fields: Any) -> str:
    """The message of a ValidationError."""
    with pytest.raises(ClientError) as failure:
        submit(client, **fields)
    error = failure.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("ValidationError", 400)
    return str(error["Error"]["Message"])


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
    told = "ValueError: a secret of the handler (code/mirror.py:40 in "
    assert (told in error["OriginalMessage"]) is (code == "handler_error"), "here its author reads it"


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


def test_an_answer_in_one_piece_is_a_stream_too(client: Any) -> None:
    answer = client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b'{"attributes": "k=v"}', Accept="a/b")
    body = b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"])
    assert json.loads(body)["accept"] == "a/b"
    assert (answer["ContentType"], answer["CustomAttributes"]) == ("application/json", "k=v")
    with pytest.raises(client.exceptions.ModelError) as failure:
        client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b'{"do": "fail"}')
    assert failure.value.response["OriginalStatusCode"] == 500


def test_a_stream_may_belong_to_a_session_that_is_open(client: Any) -> None:
    id = invoke(client, SessionId="NEW_SESSION")["NewSessionId"].partition(";")[0]
    answer = client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"{}", SessionId=id)
    assert json.loads(b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"]))["session"] == id
    with pytest.raises(client.exceptions.ModelError) as failure:
        client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"{}", SessionId="unknown")
    assert json.loads(failure.value.response["OriginalMessage"])["error"]["code"] == "session_not_found"


def test_an_asynchronous_call_reads_a_file_and_leaves_one(client: Any, inputs: Path, outputs: Path) -> None:
    path = inputs / "an input.json"
    path.write_text(json.dumps({"pad": "x" * 300_000}))
    answer = submit(client, InputLocation=path.as_uri(), ContentType="application/json; a=b", Accept="application/json")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    seen = outcome(answer)
    assert seen["body"] == path.stat().st_size
    assert (seen["content_type"], seen["accept"]) == ("application/json; a=b", "application/json")
    assert answer["OutputLocation"] == (outputs / f"{answer['InferenceId']}.out").as_uri()
    assert answer["FailureLocation"] == (outputs / f"{answer['InferenceId']}-error.out").as_uri()
    assert seen["inference_id"] == answer["InferenceId"]


def test_an_asynchronous_call_may_bring_its_body(client: Any) -> None:
    answer = submit(client, Body=b'{"pad": "' + b"x" * 127_000 + b'"}', CustomAttributes="k=v", InferenceId="my id 7")
    seen = outcome(answer)
    assert (seen["body"], seen["custom_attributes"]) == (127_011, "k=v")
    assert seen["inference_id"] == seen["request_id"] == answer["InferenceId"] == "my id 7"


@pytest.mark.parametrize("id", ["../../escape", "/etc/x", "a/../../b", "..", "%2e%2e%2f", "~", "a:b*?<>|\\\"'"])
def test_no_inference_id_leads_out_of_the_folder(client: Any, outputs: Path, id: str) -> None:
    answer = submit(client, Body=b"{}", InferenceId=id)
    assert outcome(answer)["inference_id"] == answer["InferenceId"] == id
    assert path_of(answer["OutputLocation"]).parent == outputs


def test_an_inference_id_given_twice_loses_no_outcome(client: Any) -> None:
    answers = [submit(client, Body=b"{}" + b" " * number, InferenceId="same") for number in (0, 1)]
    assert [outcome(answer)["body"] for answer in answers] == [2, 3]


def test_what_is_left_is_for_its_owner_alone_and_nothing_lies_beside_it(client: Any, outputs: Path) -> None:
    answer = submit(client, Body=b"{}")
    outcome(answer)
    assert path_of(answer["OutputLocation"]).stat().st_mode & 0o777 == 0o600
    assert not path_of(answer["FailureLocation"]).exists()
    assert not [file for file in outputs.iterdir() if file.suffix != ".out"]


@pytest.mark.parametrize(
    ("body", "fields", "status"),
    [
        ({"do": "refuse"}, {}, 400),
        ({"do": "fail"}, {}, 500),
        ({"sleep": 1.5}, {"InvocationTimeoutSeconds": 1}, 0),
    ],
)
def test_an_asynchronous_call_that_fails_leaves_its_error(client: Any, body: Any, fields: Any, status: int) -> None:
    answer = submit(client, Body=json.dumps(body), **fields)
    error = outcome(answer, "FailureLocation")
    assert error.keys() == {"Message", "OriginalStatusCode", "OriginalMessage", "LogStreamArn"}
    assert error["OriginalStatusCode"] == status
    assert ("a secret of the handler (code/mirror.py:40 in " in str(error)) is (status == 500)
    assert not path_of(answer["OutputLocation"]).exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ContentType", "x" * 1025),
        ("Accept", "x" * 1025),
        ("CustomAttributes", "x" * 1025),
        ("InferenceId", "x" * 65),
        ("EndpointName", "a_b"),
        ("InvocationTimeoutSeconds", 0),
        ("InvocationTimeoutSeconds", 3601),
        ("InvocationTimeoutSeconds", -1),
        ("RequestTTLSeconds", 59),
        ("RequestTTLSeconds", 21_601),
        ("Filename", "a.b.c"),
        ("Filename", "../a"),
        ("S3OutputPathExtension", "s3://x"),
        ("Body", b"x" * 128_001),
        ("Body", b""),
        ("InputLocation", "file:///etc/hostname"),
    ],
)
def test_every_field_of_an_asynchronous_call_is_checked(client: Any, field: str, value: Any) -> None:
    assert field in refusal(client, **{"Body": b"{}", field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("InvocationTimeoutSeconds", 3600),
        ("RequestTTLSeconds", 60),
        ("Filename", "a.b"),
        ("S3OutputPathExtension", "a/b"),
    ],
)
def test_what_the_platform_allows_of_an_asynchronous_call_is_taken(client: Any, field: str, value: Any) -> None:
    assert outcome(submit(client, **{"Body": b"{}", field: value}))["body"] == 2


@pytest.mark.parametrize("location", ["s3://bucket/key", "https://host/key", "file://host/key", "relative", "file://"])
def test_an_input_elsewhere_is_refused_with_what_is_allowed(client: Any, location: str) -> None:
    message = refusal(client, InputLocation=location)
    assert "InputLocation" in message
    assert "file:///" in message
    assert "SERVING_LOCAL_INPUT" in message


def test_an_input_must_be_a_file_below_the_folder(client: Any, inputs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (inputs / "link").symlink_to(outside)
    (inputs / "folder").symlink_to(tmp_path)
    (inputs / "loop").symlink_to(inputs / "loop")
    os.mkfifo(inputs / "pipe")
    wrong = ["link", "folder/outside.json", "loop", "pipe", "", "missing", "../in2", f"../..{outside}", "a%00b", "%ff"]
    for name in [*wrong, "%2e%2e/%2e%2e/etc/hostname"]:
        assert "allowed: a file below" in refusal(client, InputLocation=f"file://{inputs}/{name}")
    (inputs / "real.json").write_text("{}")
    (inputs / "inner").symlink_to(inputs / "real.json")
    assert outcome(submit(client, InputLocation=f"file://{inputs}/inner"))["body"] == 2


def test_the_folders_must_be_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "mirror:Mirror")
    with serving(folder, local="true") as server, closing(client_of(server)) as client:
        assert "SERVING_LOCAL_OUTPUT" in refusal(client, Body=b"{}")
    output = tmp_path / "deep" / "out"
    with serving(folder, local="true", local_output=output) as server, closing(client_of(server)) as client:
        assert "SERVING_LOCAL_INPUT" in refusal(client, InputLocation=(folder / "serving.toml").as_uri())
        assert outcome(submit(client, Body=b"{}"))["body"] == 2


def test_what_was_accepted_has_its_outcome_when_the_server_stops(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "mirror:Mirror")
    with serving(folder, local="true", local_output=tmp_path / "out") as server, closing(client_of(server)) as client:
        answers = [submit(client, Body=b'{"sleep": 0.3}') for _ in range(8)]
        server.stop()
        for answer in answers:
            assert [path_of(answer[f"{name}Location"]).exists() for name in ("Output", "Failure")].count(True) == 1
