"""Triton's own client, ``tritonclient.http``, against the real server and models written here."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.server import Server, serving
from tests.e2e.triton import store

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
errors = pytest.importorskip("tritonclient.utils", reason="tritonclient is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(Path("/nowhere"), model_store=store(tmp_path_factory.mktemp("models"))) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4)) as client:
        yield client


def given(name: str, datatype: str, array: Any, binary: bool = True) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


ONE, TWO = np.arange(4, dtype=np.float32), np.ones(4, dtype=np.float32)


@pytest.mark.parametrize("binary", [True, False])
def test_add_sub(client: Any, binary: bool) -> None:
    inputs = [given("INPUT0", "FP32", ONE, binary), given("INPUT1", "FP32", TWO, binary)]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("OUTPUT0", "OUTPUT1")]
    result = client.infer("add_sub", inputs, request_id=str(uuid.uuid4()), outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), ONE + TWO)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), ONE - TWO)


def test_without_requested_outputs_all_come_as_bytes(client: Any) -> None:
    result = client.infer("add_sub", [given("INPUT0", "FP32", ONE), given("INPUT1", "FP32", TWO)])
    assert result.get_response()["outputs"][0]["parameters"] == {"binary_data_size": 16}
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), ONE - TWO)


TYPES = {
    "BOOL": [True, False],
    **{f"UINT{bits}": [0, 2**bits - 1] for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    "FP16": [0.5, -65504.0],
    "FP32": [0.1, 3e38],
    "FP64": [0.1, -1e308],
}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", TYPES)
def test_every_type_of_number_comes_back_as_it_was(client: Any, datatype: str, binary: bool) -> None:
    if datatype == "FP16" and not binary:
        pytest.skip("tritonclient sends FP16 as bytes only")
    array = np.array([TYPES[datatype]], dtype=errors.triton_to_np_dtype(datatype))
    outputs = [triton.InferRequestedOutput(f"OUT_{datatype}", binary_data=binary)]
    result = client.infer("identity", [given(f"IN_{datatype}", datatype, array, binary)], outputs=outputs)
    found = result.as_numpy(f"OUT_{datatype}")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("binary", [True, False])
def test_strings_come_back_as_they_were(client: Any, binary: bool) -> None:
    texts = [b"", "grün".encode(), *([b"\x00\xff"] if binary else [b"plain"])]
    array = np.array([texts], dtype=np.object_)
    outputs = [triton.InferRequestedOutput("OUT_STRING", binary_data=binary)]
    result = client.infer("identity", [given("IN_STRING", "BYTES", array, binary)], outputs=outputs)
    found = [one if isinstance(one, bytes) else one.encode() for one in result.as_numpy("OUT_STRING")[0]]
    assert found == texts


def test_bf16_goes_through_dlpack(client: Any) -> None:
    array = np.array([[1.5, -2.0, 3e38]], dtype=errors.triton_to_np_dtype("BF16"))
    found = client.infer("identity", [given("IN_BF16", "BF16", array)]).as_numpy("OUT_BF16")
    np.testing.assert_allclose(np.asarray(found, dtype=np.float32), [[1.5, -2.0, 3e38]], rtol=1e-2)


def test_what_the_client_asks_of_server_and_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    client.load_model("add_sub")
    assert client.is_model_ready("add_sub")
    assert client.is_model_ready("add_sub", "1")
    assert client.get_model_metadata("add_sub")["outputs"][0] == {"name": "OUTPUT0", "datatype": "FP32", "shape": [4]}
    assert client.get_model_config("add_sub")["backend"] == "python"
    assert "add_sub" in [model["name"] for model in client.get_model_repository_index()]
    client.unload_model("add_sub")
    assert not client.is_model_ready("add_sub")


def test_an_error_is_the_clients_own_exception_with_our_words(client: Any) -> None:
    with pytest.raises(errors.InferenceServerException, match="INPUT1 is missing"):
        client.infer("add_sub", [given("INPUT0", "FP32", ONE)])
    with pytest.raises(errors.InferenceServerException, match="negative"):
        client.infer("batching", [given("IN", "INT32", np.array([[-1]], np.int32))])


def test_a_sequence(client: Any) -> None:
    sums = []
    for index, value in enumerate([3, 4, 5]):
        array = np.array([[value]], dtype=np.int32)
        result = client.infer(
            "sequence",
            [given("IN", "INT32", array)],
            sequence_id=1001,
            sequence_start=index == 0,
            sequence_end=index == 2,
        )
        sums.append(int(result.as_numpy("SUM").item()))
    assert sums == [3, 7, 12]


def test_a_sequence_with_an_id_that_is_text(client: Any) -> None:
    array = given("IN", "INT32", np.array([[1]], np.int32))
    with pytest.raises(errors.InferenceServerException, match="TYPE_UINT64"):
        client.infer("sequence", [array], sequence_id="mine", sequence_start=True, sequence_end=True)


def test_priority_and_timeout_are_taken(client: Any) -> None:
    array = given("IN", "INT32", np.array([[5]], np.int32))
    result = client.infer("batching", [array], priority=1, timeout=5_000_000, parameters={"own": "x"})
    assert result.as_numpy("OUT").item() == 5


def test_shared_memory_and_classification_are_refused_in_words(client: Any) -> None:
    with pytest.raises(errors.InferenceServerException, match="shared memory is not supported"):
        client.register_system_shared_memory("region", "/key", 64)
    with pytest.raises(errors.InferenceServerException, match="shared memory is not supported"):
        client.get_cuda_shared_memory_status()
    inputs = [given("INPUT0", "FP32", ONE), given("INPUT1", "FP32", TWO)]
    outputs = [triton.InferRequestedOutput("OUTPUT0", class_count=2)]
    with pytest.raises(errors.InferenceServerException, match="classification"):
        client.infer("add_sub", inputs, outputs=outputs)
    outputs[0] = triton.InferRequestedOutput("OUTPUT0")
    outputs[0].set_shared_memory("region", 16)
    with pytest.raises(errors.InferenceServerException, match="shared memory is not supported"):
        client.infer("add_sub", inputs, outputs=outputs)
    shared = triton.InferInput("INPUT0", [4], "FP32")
    shared.set_shared_memory("region", 16)
    with pytest.raises(errors.InferenceServerException, match="shared memory is not supported"):
        client.infer("add_sub", [shared, inputs[1]])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_refused_in_words_and_a_compressed_answer_not_given(
    client: Any, algorithm: str
) -> None:
    inputs = [given("INPUT0", "FP32", ONE), given("INPUT1", "FP32", TWO)]
    with pytest.raises(errors.InferenceServerException, match="leave out Content-Encoding"):
        client.infer("add_sub", inputs, request_compression_algorithm=algorithm)
    result = client.infer("add_sub", inputs, response_compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), ONE + TWO)


def test_settings_of_traces_and_logs_are_refused_in_words(client: Any) -> None:
    for call in (client.get_trace_settings, client.get_log_settings, lambda: client.get_trace_settings("add_sub")):
        with pytest.raises(errors.InferenceServerException, match="not supported here"):
            call()


def test_calls_beside_each_other(client: Any) -> None:
    arrays = [np.array([[value]], dtype=np.int32) for value in range(1, 5)]
    calls = [client.async_infer("batching", [given("IN", "INT32", array)]) for array in arrays]
    results = [one.get_result() for one in calls]
    assert [int(one.as_numpy("OUT").item()) for one in results] == [1, 2, 3, 4]
