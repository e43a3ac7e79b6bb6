"""boto3 reads a stream from the server on a desk: every field, every part as it is sent, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError

from tests.e2e.desk import Desk, Exchange, Script, desk, signal
from tests.e2e.server import eventually

BROKEN = "could not load the entire response body"
PATH = "invocations-response-stream"
POURED = 64  # mebibytes, more than all buffers on the way together


async def say(exchange: Exchange) -> None:
    await exchange.answer(b"hello", content_type="text/plain")


def invoke(client: Any, **fields: Any) -> Any:
    return client.invoke_endpoint_with_response_stream(**{"EndpointName": "my-endpoint", "Body": b"{}", **fields})


def parts(answer: Any) -> list[bytes]:
    return [event["PayloadPart"]["Bytes"] for event in answer["Body"]]


def stream(server: Desk) -> tuple[list[bytes], str]:
    """The parts that a client gets, and the code of the error that ended them."""
    found: list[bytes] = []
    with server.client() as client, contextlib.closing(invoke(client)["Body"]) as body:
        try:
            for event in body:
                found.append(event["PayloadPart"]["Bytes"])
        except EventStreamError as error:
            assert error.response["Error"]["Message"]
            return found, error.response["Error"]["Code"]
    return found, ""


def refusal(server: Desk, **fields: Any) -> Any:
    with server.client() as client, pytest.raises(ClientError) as failure:
        invoke(client, **fields)
    return failure.value.response


@pytest.mark.parametrize(
    ("field", "value", "header"),
    [
        ("ContentType", "application/json; charset=utf-8", "content-type"),
        ("Accept", "text/event-stream", "accept"),
        ("CustomAttributes", "trace=1; route=/x", "x-amzn-sagemaker-custom-attributes"),
        ("TargetVariant", "variant-1", "x-amzn-sagemaker-target-variant"),
        ("TargetContainerHostname", "second", "x-amzn-sagemaker-target-container-hostname"),
        ("InferenceId", "my id 7", "x-amzn-sagemaker-inference-id"),
        ("InferenceComponentName", "component-1", "x-amzn-sagemaker-inference-component"),
        ("SessionId", "3f0c-11", "x-amzn-sagemaker-session-id"),
        ("PrefixAwareId", "tenant 1", "x-amzn-sagemaker-prefix-aware-id"),
        ("Body", b"\x00\xff" * 70_000, None),
        ("Body", b"", None),
    ],
)
def test_every_field_reaches_the_container(field: str, value: Any, header: str | None) -> None:
    with desk(say) as server, server.client() as client:
        assert parts(invoke(client, **{field: value})) == [b"hello"]
        (seen,) = server.container.seen
        assert (seen.headers[header] if header is not None else seen.body) == value


def test_the_container_sees_an_ordinary_invocation_and_which_operation_it_was() -> None:
    with desk(say) as server, server.client() as client:
        parts(invoke(client, Accept="text/plain"))
        client.invoke_endpoint(EndpointName="my-endpoint", Body=b"{}")["Body"].read()
        streamed, plain = server.container.seen
        assert (streamed.scope["method"], streamed.scope["path"]) == ("POST", "/invocations")
        assert streamed.headers["x-amzn-sagemaker-forwarded-api"] == "InvokeEndpointWithResponseStream"
        assert "x-amzn-sagemaker-accept" not in streamed.headers
        assert plain.headers["x-amzn-sagemaker-forwarded-api"] == "InvokeEndpoint"


@pytest.mark.parametrize("header", ["target-model", "enable-explanations", "forwarded-api"])
def test_what_the_operation_does_not_have_is_ignored(header: str) -> None:
    with desk(say) as server, server.post(PATH, {f"X-Amzn-SageMaker-{header}": "mine"}) as answer:
        answer.read()
        assert "mine" not in server.container.seen[0].headers.values()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ContentType", "x" * 1025),
        ("Accept", "x" * 1025),
        ("CustomAttributes", "x" * 1025),
        ("TargetVariant", "a_b"),
        ("TargetContainerHostname", "a.b"),
        ("InferenceId", "x" * 65),
        ("InferenceComponentName", "-x"),
        ("SessionId", "a_b"),
        ("SessionId", "NEW_SESSION"),
        ("PrefixAwareId", "x" * 65),
        ("EndpointName", "a_b"),
    ],
)
def test_every_field_is_refused_as_the_platform_would(field: str, value: str) -> None:
    with desk(say) as server:
        error = refusal(server, **{field: value})
        assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("ValidationError", 400)
        assert field in error["Error"]["Message"]
        assert server.container.seen == []


def test_every_field_comes_back_and_nothing_else_of_the_containers() -> None:
    async def script(exchange: Exchange) -> None:
        attributes = {
            "x_amzn_sagemaker_custom_attributes": "k=v",
            "x_amzn_sagemaker_new_session_id": "no",
            "x_foo": "no",
        }
        await exchange.answer(b"", content_type="text/event-stream", **attributes)

    with desk(script) as server, server.client() as client:
        answer = invoke(client)
        assert parts(answer) == []
        assert answer["ContentType"] == "text/event-stream"
        assert answer["CustomAttributes"] == "k=v"
        assert answer["InvokedProductionVariant"] == "AllTraffic"
        head = answer["ResponseMetadata"]["HTTPHeaders"]
        assert head["content-type"] == "application/vnd.amazon.eventstream"
        assert not {"x-foo", "x-amzn-sagemaker-new-session-id"} & head.keys()
        other = invoke(client, TargetVariant="blue")
        assert (other["InvokedProductionVariant"], parts(other)) == ("blue", [])


def test_each_part_arrives_before_the_next_is_sent() -> None:
    turns = [threading.Event() for _ in range(3)]

    async def script(exchange: Exchange) -> None:
        await exchange.head(content_type="text/plain")
        for number, turn in enumerate(turns):
            await signal(turn)
            await exchange.part(str(number).encode())
        await exchange.part(b"", last=True)

    with desk(script) as server, server.client() as client:
        events = iter(invoke(client)["Body"])  # the head alone is there
        for number, turn in enumerate(turns):
            turn.set()
            assert next(events) == {"PayloadPart": {"Bytes": str(number).encode()}}
        assert list(events) == []


def test_an_empty_part_is_none_and_a_large_one_is_split() -> None:
    data = bytes(range(256)) * 10_000

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.part(b"")
        await exchange.part(memoryview(data))
        await exchange.part(b"end", last=True)

    with desk(script) as server, server.client() as client:
        found = parts(invoke(client))
        assert [len(part) for part in found] == [1 << 20, 1 << 20, len(data) - (2 << 20), 3]
        assert b"".join(found) == data + b"end"


def test_a_connection_goes_on_after_a_stream() -> None:
    with desk(say) as server, server.client() as client:
        for _ in range(3):
            assert parts(invoke(client)) == [b"hello"]
        assert len({seen.scope["client"] for seen in server.container.seen}) == 1


@pytest.mark.parametrize("status", [400, 404, 503, 504, 507])
def test_an_error_before_the_stream_is_a_model_error(status: int) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head(status, content_type="application/json")
        await exchange.part(b"no")
        await exchange.part(b"t so", last=True)

    with desk(script) as server:
        error = refusal(server)
        assert error["Error"]["Code"] == "ModelError"
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert (error["OriginalStatusCode"], error["OriginalMessage"]) == (status, "not so")
        assert error["LogStreamArn"].startswith("arn:aws:logs:")


def test_a_model_that_is_still_loading_is_not_ready() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(b'{"error": {"code": "model_loading"}}', 503)

    with desk(script) as server:
        error = refusal(server)
        assert error["Error"]["Code"] == "ModelNotReadyException"
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 429


async def fail(exchange: Exchange) -> None:
    raise ValueError("a secret of the application")


async def leave(exchange: Exchange) -> None:
    return


@pytest.mark.parametrize("script", [fail, leave])
@pytest.mark.parametrize("operation", ["invoke_endpoint", "invoke_endpoint_with_response_stream"])
def test_an_application_that_fails_before_its_head_is_a_server_error(script: Any, operation: str) -> None:
    with desk(script) as server, server.client() as client:
        with pytest.raises(client.exceptions.ModelError) as failure:
            getattr(client, operation)(EndpointName="my-endpoint", Body=b"{}")
        assert failure.value.response["OriginalStatusCode"] == 500
        assert "secret" not in str(failure.value.response)


@pytest.mark.parametrize("operation", ["invoke_endpoint", "invoke_endpoint_with_response_stream"])
def test_without_a_head_in_time_it_is_a_time_out_and_the_container_sees_nobody(operation: str) -> None:
    left = threading.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.until_gone()
        await exchange.answer(b"late")
        left.set()

    with desk(script, head_time=0.05) as server, server.client() as client:
        with pytest.raises(client.exceptions.ModelError) as failure:
            getattr(client, operation)(EndpointName="my-endpoint", Body=b"{}")
        assert failure.value.response["OriginalStatusCode"] == 0
        assert "timed out" in failure.value.response["OriginalMessage"]
        assert left.wait(10)


def test_the_head_alone_is_bounded_by_the_time_for_it() -> None:
    shown = threading.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await signal(shown)
        await exchange.part(b"later than that", last=True)

    with desk(script, head_time=0.3) as server, server.client() as client:
        answer = invoke(client)
        threading.Timer(0.4, shown.set).start()
        assert parts(answer) == [b"later than that"]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("handler_error", "StreamBroken"),
        ("worker_died", "StreamBroken"),
        ("deadline_exceeded", "ModelInvocationTimeExceeded"),
    ],
)
def test_a_stream_that_the_container_cuts_ends_with_an_error(code: str, shown: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.part(b"first")
        exchange.cut(code)
        await exchange.part(b"after it")

    with desk(script) as server:
        assert stream(server) == ([b"first"], "ModelStreamError")
        part, failure = server.events()
        assert part[1] == b"first"
        assert failure[0][":exception-type"] == "ModelStreamError"
        body = json.loads(failure[1])
        assert (body.keys(), body["ErrorCode"]) == ({"Message", "ErrorCode"}, shown)


def test_a_stream_may_be_cut_before_its_first_part() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        exchange.cut("handler_error")

    with desk(script) as server:
        assert stream(server) == ([], "ModelStreamError")


@pytest.mark.parametrize("operation", ["invoke_endpoint", "invoke_endpoint_with_response_stream"])
@pytest.mark.parametrize("headed", [True, False])
def test_a_body_that_is_cut_short_could_not_be_loaded(operation: str, headed: bool) -> None:
    async def script(exchange: Exchange) -> None:
        if headed:
            await exchange.head(200 if operation == "invoke_endpoint" else 500)
            await exchange.part(b"some")
        exchange.cut("handler_error")

    with desk(script) as server, server.client() as client:
        with pytest.raises(client.exceptions.ModelError) as failure:
            getattr(client, operation)(EndpointName="my-endpoint", Body=b"{}")
        assert failure.value.response["OriginalStatusCode"] == 500
        assert failure.value.response["Error"]["Message"].endswith(f"and {BROKEN}")


@pytest.mark.parametrize("last_words", [fail, leave])
def test_an_application_that_fails_in_mid_stream_is_the_servers_fault(last_words: Any) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.part(b"first")
        await last_words(exchange)

    with desk(script) as server:
        assert stream(server) == ([b"first"], "InternalStreamFailure")
        assert "secret" not in str(server.events())


def test_a_stream_that_takes_too_long_is_ended_and_the_container_sees_nobody() -> None:
    left = threading.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.part(b"first")
        await exchange.until_gone()
        await exchange.part(b"late", last=True)
        left.set()

    with desk(script, stream_time=0.3) as server:
        assert stream(server) == ([b"first"], "ModelStreamError")
        assert left.wait(10)
        assert json.loads(server.events()[-1][1])["ErrorCode"] == "ModelInvocationTimeExceeded"


@pytest.mark.parametrize("started", [True, False])
def test_a_client_that_goes_is_noticed_and_both_sides_end(started: bool) -> None:
    waiting, left = threading.Event(), threading.Event()

    async def script(exchange: Exchange) -> None:
        if started:
            await exchange.head()
            await exchange.part(b"first")
        waiting.set()
        await exchange.until_gone()
        left.set()

    with desk(script) as server:
        with server.client() as client:
            if started:
                body = invoke(client)["Body"]
                next(iter(body))
                body.close()
            else:
                abandon(server, waiting)
        assert left.wait(10)
        eventually(lambda: not server.running)


def abandon(server: Desk, waiting: threading.Event) -> None:
    """Ask, and leave before there is an answer."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST /endpoints/e/{PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
        assert waiting.wait(10)


def pour(held_up: threading.Event, patience: float, sent: list[int]) -> Script:
    """A script that sends more than any buffer holds, and tells when a part takes longer than ``patience``."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for number in range(POURED):
            sending = asyncio.ensure_future(exchange.part(bytes(1 << 20), last=number == POURED - 1))
            if not (await asyncio.wait({sending}, timeout=patience))[0]:
                held_up.set()
            await sending
            sent.append(number)
        await exchange.until_gone()

    return script


def test_a_client_that_reads_slowly_slows_the_container_down() -> None:
    held_up, sent = threading.Event(), list[int]()
    with desk(pour(held_up, 0.3, sent)) as server, server.client() as client:
        body = invoke(client)["Body"]
        assert held_up.wait(10)
        assert len(sent) < POURED
        assert sum(len(event["PayloadPart"]["Bytes"]) for event in body) == POURED << 20
        eventually(lambda: len(sent) == POURED)


def test_a_stream_that_took_too_long_says_so_also_to_a_slow_client() -> None:
    held_up, sent = threading.Event(), list[int]()
    with desk(pour(held_up, 1.2, sent), stream_time=1.0) as server, server.client() as client:
        with contextlib.closing(invoke(client)["Body"]) as body:
            assert held_up.wait(10)
            with pytest.raises(EventStreamError):
                list(body)
        eventually(lambda: len(sent) == POURED and not server.running)
