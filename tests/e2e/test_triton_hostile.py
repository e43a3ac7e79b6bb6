"""Requests that no good client sends, to models for Triton under the real server: each hurts only itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, serving
from tests.e2e.triton import ADD_SUB, BINARY, call, infer, store, tensor


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(Path("/nowhere"), model_store=store(tmp_path_factory.mktemp("models"))) as server:
        assert infer(server, "add_sub", ADD_SUB).status == 200
        yield server


def header(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def binary(size: Any, shape: Any = (4,), datatype: str = "FP32") -> dict[str, Any]:
    entry = {"name": "INPUT0", "datatype": datatype, "shape": shape}
    return {**entry, "parameters": {"binary_data_size": size}}


def given(shape: Any, data: Any = (1, 2, 3, 4), datatype: Any = "FP32") -> dict[str, Any]:
    return {"name": "INPUT0", "datatype": datatype, "shape": shape, "data": data}


BODIES: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "no object": (b"[]", b""),
    "null": (b"null", b""),
    "a number": (b"1", b""),
    "not closed": (b'{"inputs": [', b""),
    "no UTF-8": (b'{"inputs": "\xff"}', b""),
    "zeros": (bytes(1000), b""),
    "no inputs": (b"{}", b""),
    "inputs are no list": (b'{"inputs": {}}', b""),
    "an input is null": (b'{"inputs": [null]}', b""),
    "no name": (b'{"inputs": [{"shape": [4], "datatype": "FP32"}]}', b""),
    "a depth bomb of lists": (b'{"inputs": [{"name": "INPUT0", "data": ' + b"[" * 500_000, b""),
    "a depth bomb of objects": (b'{"parameters": ' + b'{"a":' * 500_000, b""),
    "a depth bomb that is closed": (header(given([4], "X")).replace(b'"X"', b"[" * 400 + b"1" + b"]" * 400), b""),
    "a negative shape": (header(given([-4])), b""),
    "a negative shape of two": (header(given([-2, -2])), b""),
    "a shape beyond all": (header(given([2**62])), b""),
    "a shape beyond 64 bits": (header(given([2**70])), b""),
    "a shape whose product overflows": (header(given([2**32, 2**32])), b""),
    "a shape without elements": (header(given([0, 2**61], [])), b""),
    "a shape of 33": (header(given([1] * 33)), b""),
    "a shape of text": (header(given(["4"])), b""),
    "a shape of fractions": (header(given([4.5])), b""),
    "no shape": (header(given(None)), b""),
    "another type": (header(given([4], datatype="FP64")), b""),
    "no type at all": (header(given([4], datatype="OBJECT")), b""),
    "a type that is a number": (header(given([4], datatype=11)), b""),
    "too many values": (header(given([4], [1] * 5)), b""),
    "values of text": (header(given([4], ["1"] * 4)), b""),
    "values of null": (header(given([4], [None] * 4)), b""),
    "uneven nesting": (header(given([4], [[1, 2], 3, 4])), b""),
    "a size below zero": (header(binary(-1)), bytes(16)),
    "a size of text": (header(binary("16")), bytes(16)),
    "a size of 2**63": (header(binary(2**63)), bytes(16)),
    "a size of 10**30": (header(binary(10**30)), bytes(16)),
    "too few bytes": (header(binary(16)), bytes(15)),
    "too many bytes": (header(binary(16)), bytes(17)),
    "bytes that do not fit the shape": (header(binary(15)), bytes(15)),
    "a string that is cut off": (header(binary(8, datatype="BYTES")), b"\xff\xff\xff\xff1234"),
    "strings too few": (header(binary(5, datatype="BYTES")), b"\x01\x00\x00\x00a"),
    "twice the same": (header(given([4]), given([4])), b""),
    "an output twice removed": (header(*ADD_SUB, outputs=[{"name": "NONE"}]), b""),
    "outputs are no list": (header(*ADD_SUB, outputs="OUTPUT0"), b""),
    "parameters are no object": (header(*ADD_SUB, parameters=[1]), b""),
    "an id that is no text": (header(*ADD_SUB, id=7), b""),
    "a timeout below zero": (header(*ADD_SUB, parameters={"timeout": -1}), b""),
    "a priority of text": (header(*ADD_SUB, parameters={"priority": "high"}), b""),
    "a binary output perhaps": (header(*ADD_SUB, parameters={"binary_data_output": "maybe"}), b""),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_request_that_makes_no_sense_is_a_400_on_every_path(server: Server, name: str) -> None:
    before = server.workers()
    head, tail = BODIES[name]
    size = str(len(head))
    target = {"X-Amzn-SageMaker-Target-Model": "add_sub"}
    answers = [
        call(server, "POST", "/v2/models/add_sub/infer", head + tail, **{"Inference-Header-Content-Length": size}),
        call(server, "POST", "/invocations", head + tail, Content_Type=f"{BINARY};json-header-size={size}", **target),
        call(server, "POST", "/models/add_sub/invoke", head + tail, Content_Type=f"{BINARY};json-header-size={size}"),
    ]
    assert [answer.status for answer in answers] == [400] * 3, answers[0].body[:500]
    assert isinstance(answers[0].json()["error"], str)
    assert answers[1].json()["error"]["code"] == answers[2].json()["error"]["code"] == "bad_request"
    for answer in answers:
        assert b"Traceback" not in answer.body
        assert b"could not be decoded" not in answer.body, "it is told in words of ours"
        assert len(answer.body) < 1000
    assert infer(server, "add_sub", ADD_SUB).status == 200
    assert server.workers() == before


@pytest.mark.parametrize("size", ["-1", "1e3", "x", "9" * 30, "999999", "\u0661"])
def test_a_header_size_that_cannot_be(server: Server, size: str) -> None:
    body = header(*ADD_SUB)
    for path, headers in (
        ("/v2/models/add_sub/infer", {"Inference-Header-Content-Length": size.encode().decode("latin-1")}),
        ("/v2/models/add_sub/infer", {"Content-Type": f"{BINARY};json-header-size={size.encode().decode('latin-1')}"}),
    ):
        answer = call(server, "POST", path, body, **headers)
        assert answer.status == 400, answer.body
        assert len(answer.body) < 300


def test_a_model_is_not_loaded_from_elsewhere(server: Server) -> None:
    for name in ("..", "../add_sub", "%2e%2e", "..%2fadd_sub", "add_sub/../add_sub", "%00"):
        for path in (f"/v2/models/{name}/infer", f"/v2/repository/models/{name}/load"):
            assert call(server, "POST", path, header(*ADD_SUB)).status in (400, 404), path


def test_a_sequence_beside_hostile_ones_goes_on(server: Server) -> None:
    def add(**parameters: Any) -> Any:
        return infer(server, "sequence", [tensor("IN", "INT32", [1, 1], [1])], parameters=parameters)

    assert add(sequence_id=5, sequence_start=True).data("SUM") == [1]
    for wrong in ({"sequence_id": -1}, {"sequence_id": 2**70}, {"sequence_id": "x" * 1000}, {"sequence_id": [5]}):
        assert add(sequence_start=True, **wrong).status == 400
    assert add(sequence_id=5).data("SUM") == [2]
