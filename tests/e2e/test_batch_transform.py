"""A batch transform job, as it was seen to go: /ping, /execution-parameters, then bodies of many records."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.server import Server, model_folder, serving

ENVIRONMENT = {"SAGEMAKER_BATCH": "true", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("squares"), "squares:Squares")
    with serving(folder, environment=ENVIRONMENT, bad_record="ERROR") as one:
        yield one


def call(server: Server, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers, encode_chunked=True)  # type: ignore[arg-type]
        with connection.getresponse() as answer:
            return answer.status, answer.read()
    finally:
        connection.close()


def test_the_job_is_told_what_pays(server: Server) -> None:
    status, body = call(server, "GET", "/execution-parameters")
    assert status == 200
    assert json.loads(body) == {
        "MaxConcurrentTransforms": 16,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": 6,
    }


def test_a_chunked_body_of_any_size_is_taken(server: Server) -> None:
    """Above the limit of 100 MiB that holds where the job sets none."""
    numbers = np.arange(28_000_000, dtype=np.float32)
    buffer = io.BytesIO()
    np.save(buffer, numbers)
    data = buffer.getvalue()
    chunks = (data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20))
    headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    status, body = call(server, "POST", "/invocations", chunks, **headers)
    assert status == 200
    assert np.array_equal(np.load(io.BytesIO(body)), numbers * numbers)


def test_a_body_of_many_records_is_answered_record_for_record(server: Server) -> None:
    body = b"".join(b"%d,1\n" % n for n in range(10_000))
    status, answer = call(server, "POST", "/invocations", body, **{"Content-Type": "text/csv", "Accept": "text/csv"})
    assert status == 200
    rows = [list(map(float, line.split(b","))) for line in answer.splitlines()]
    assert rows == [[float(np.float32(n) * np.float32(n)), 1.0] for n in range(10_000)]


@pytest.mark.parametrize("kind", ["text/csv", "application/jsonlines"])
def test_a_bad_record_has_a_placeholder_in_its_place(server: Server, kind: str) -> None:
    status, body = call(server, "POST", "/invocations", b"1.5\nx\n2\n", **{"Content-Type": kind, "Accept": kind})
    assert status == 200
    assert body == (b"2.25\nERROR\n4.0\n" if kind == "text/csv" else b'2.25\n"ERROR"\n4\n')


def test_without_a_placeholder_a_bad_record_fails_the_request(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "squares:Squares")) as server:
        status, body = call(server, "POST", "/invocations", b"1\nx\n2\n", **{"Content-Type": "text/csv"})
        assert status == 400
        assert "record 2: column 1" in json.loads(body)["error"]["message"]


def test_a_job_has_ten_minutes_for_a_request_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    from serving.config.config import load

    assert load({"SAGEMAKER_BATCH": "true"}).request_timeout == 600.0
    assert load({"SAGEMAKER_BATCH": "True", "SERVING_REQUEST_TIMEOUT": "3600"}).request_timeout == 3600.0
    assert load({"SAGEMAKER_BATCH": "false"}).request_timeout == 60.0


def test_a_model_that_takes_one_record_is_sent_one(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "streamer:Tokens"), environment=ENVIRONMENT) as server:
        status, body = call(server, "GET", "/execution-parameters")
        assert (status, json.loads(body)["BatchStrategy"]) == (200, "SINGLE_RECORD")
