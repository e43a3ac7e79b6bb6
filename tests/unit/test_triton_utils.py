"""``triton_python_backend_utils``: each name that models use, under a plain Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import metrics

ROOT = Path(__file__).parent.parent.parent


def test_the_import_needs_neither_torch_nor_the_server() -> None:
    code = "import triton_python_backend_utils, sys; print([m for m in ('torch', 'serving') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("array", "number"),
    [
        (np.array([True]), 1),
        *((np.array([1], kind), number) for number, kind in enumerate((np.uint8, np.uint16, np.uint32, np.uint64), 2)),
        *((np.array([1], kind), number) for number, kind in enumerate((np.int8, np.int16, np.int32, np.int64), 6)),
        *((np.array([1], kind), number) for number, kind in enumerate((np.float16, np.float32, np.float64), 10)),
        (np.array([b"x"], np.object_), 13),
        (np.array([b"x"]), 13),
        (np.array(["x"]), 13),
    ],
)
def test_a_tensor_of_every_type(array: Any, number: int) -> None:
    tensor = pb_utils.Tensor("T", array)
    assert (tensor.name(), tensor.shape(), tensor.is_cpu()) == ("T", [1], True)
    assert tensor.triton_dtype() == number
    assert tensor.as_numpy().tolist() == array.tolist()


def test_what_no_tensor_can_be_made_of() -> None:
    with pytest.raises(pb_utils.TritonModelException, match="complex64"):
        pb_utils.Tensor("T", np.array([1], np.complex64))
    with pytest.raises(pb_utils.TritonModelException, match="list"):
        pb_utils.Tensor("T", [1])  # type: ignore[arg-type]


def test_dlpack_shares_memory_both_ways() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = pb_utils.Tensor("T", array)
    assert tensor.__dlpack_device__() == (1, 0)
    for seen in (torch.utils.dlpack.from_dlpack(tensor.to_dlpack()), torch.from_dlpack(tensor)):  # type: ignore[attr-defined]
        seen[0, 0] += 1
    assert array[0, 0] == 2
    given = torch.arange(4)
    back = pb_utils.Tensor.from_dlpack("T", torch.utils.dlpack.to_dlpack(given))  # type: ignore[attr-defined]
    given[0] = 7
    assert back.as_numpy()[0] == 7
    assert pb_utils.Tensor.from_dlpack("T", given.reshape(2, 2).t()).as_numpy().tolist() == [[7, 2], [1, 3]]


def test_bf16_is_there_by_dlpack_only() -> None:
    tensor = pb_utils.Tensor.from_dlpack("T", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert tensor.triton_dtype() == 14
    assert torch.from_dlpack(tensor).tolist() == [1.5, -2.0]  # type: ignore[attr-defined]
    with pytest.raises(pb_utils.TritonModelException, match="BF16"):
        tensor.as_numpy()
    with pytest.raises(pb_utils.TritonModelException, match="string"):
        pb_utils.Tensor("T", np.array([b"x"])).to_dlpack()


def test_strings_as_bytes_and_back() -> None:
    array = np.array([[b"a", "é"], [b"", b"\x00"]], dtype=np.object_)
    data = pb_utils.serialize_byte_tensor(array)
    assert data == b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa9\x00\x00\x00\x00\x01\x00\x00\x00\x00"
    assert pb_utils.deserialize_bytes_tensor(data).tolist() == [b"a", "é".encode(), b"", b"\x00"]
    assert pb_utils.serialize_byte_tensor(np.array([], np.object_)) == ()
    assert pb_utils.serialize_byte_tensor(np.array([1])) is None
    for wrong in (b"\x01\x00", b"\x05\x00\x00\x00a"):
        with pytest.raises(ValueError, match="cut off"):
            pb_utils.deserialize_bytes_tensor(wrong)


def test_types_by_name_and_number() -> None:
    assert pb_utils.triton_string_to_numpy("TYPE_FP16") is np.float16
    assert pb_utils.TRITON_STRING_TO_NUMPY["TYPE_STRING"] is np.object_
    assert [pb_utils.triton_to_numpy_type(number) for number in (1, 11, 13, 14, 99)] == [
        np.bool_,
        np.float32,
        np.object_,
        None,
        None,
    ]
    assert [pb_utils.numpy_to_triton_type(kind) for kind in (np.bool_, np.float32, np.object_, np.bytes_)] == [
        1,
        11,
        13,
        13,
    ]
    assert pb_utils.numpy_to_triton_type(np.complex64) is None


def test_a_request_and_its_fields() -> None:
    tensor = pb_utils.Tensor("A", np.zeros(1))
    request = pb_utils.InferenceRequest(
        request_id="r",
        correlation_id="c",
        inputs=[tensor],
        requested_output_names=["O"],
        model_name="m",
        flags=1,
        timeout=5,
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, 1),
        trace=pb_utils.InferenceTrace(),
        parameters={"k": 1},
    )
    assert (request.request_id(), request.correlation_id(), request.timeout()) == ("r", "c", 5)
    request.set_flags(pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)
    assert request.flags() == 2
    assert json.loads(request.parameters()) == {"k": 1}
    assert request.requested_output_names() == ["O"]
    assert request.trace().get_context() is None
    assert not request.is_cancelled()
    assert pb_utils.get_input_tensor_by_name(request, "A") is tensor
    assert pb_utils.get_input_tensor_by_name(request, "B") is None
    with pytest.raises(pb_utils.TritonModelException, match="no server"):
        request.exec()
    with pytest.raises(pb_utils.TritonModelException, match="response sender"):
        request.get_response_sender()
    with pytest.raises(pb_utils.TritonModelException, match="release"):
        request.set_release_flags(9)
    with pytest.raises(pb_utils.TritonModelException, match="an input is list"):
        pb_utils.InferenceRequest(inputs=[[1]])  # type: ignore[list-item]
    with pytest.raises(pb_utils.TritonModelException, match="Correlation"):
        pb_utils.InferenceRequest(correlation_id=1.5)  # type: ignore[arg-type]


def test_a_response_has_outputs_or_an_error() -> None:
    tensor = pb_utils.Tensor("A", np.zeros(1))
    good = pb_utils.InferenceResponse(output_tensors=[tensor], parameters={"a": "b"})
    assert not good.has_error()
    assert good.error() is None
    assert pb_utils.get_output_tensor_by_name(good, "A") is tensor
    assert json.loads(good.parameters()) == {"a": "b"}
    bad = pb_utils.InferenceResponse(error=pb_utils.TritonError("no", pb_utils.TritonError.NOT_FOUND))
    error = bad.error()
    assert error is not None
    assert (error.message(), error.code()) == ("no", pb_utils.TritonError.NOT_FOUND)
    assert pb_utils.TritonError("no").code() == pb_utils.TritonError.INTERNAL
    with pytest.raises(pb_utils.TritonModelException, match="no"):
        bad.output_tensors()
    with pytest.raises(pb_utils.TritonModelException, match="parameter 'a'"):
        pb_utils.InferenceResponse(parameters={"a": [1]})


class Nobody:
    def is_cancelled(self) -> bool:
        return False

    def sender(self) -> pb_utils.InferenceResponseSender:
        raise NotImplementedError


@pytest.mark.parametrize("single", [True, False])
def test_a_sender_sends_in_order_and_not_after_the_last(single: bool) -> None:
    sent: list[Any] = []
    sender = pb_utils.InferenceResponseSender(lambda response, final: sent.append((response, final)), Nobody(), single)
    response, final = pb_utils.InferenceResponse(), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    for wrong in ({}, {"flags": 5}, {"response": "text"}):
        with pytest.raises(pb_utils.TritonModelException):
            sender.send(**wrong)  # type: ignore[arg-type]
    if single:
        with pytest.raises(pb_utils.TritonModelException, match="complete final"):
            sender.send(flags=final)
    sender.send(response)
    if single:
        with pytest.raises(pb_utils.TritonModelException, match="more than one"):
            sender.send(response)
    sender.send(flags=final)
    assert sent == [(response, False), (None, True)]
    assert not sender.is_cancelled()
    with pytest.raises(pb_utils.TritonModelException, match="closed"):
        sender.send(response)


def test_metrics_count() -> None:
    family = pb_utils.MetricFamily("unit_requests", 'Requests\nwith "quotes"', pb_utils.MetricFamily.COUNTER)
    metric = family.Metric(labels={"kind": 'a"b'})
    metric.increment(2)
    metric.increment(0.5)
    assert metric.value() == 2.5
    assert family.Metric(labels={"kind": 'a"b'}) is metric
    for wrong in (lambda: metric.set(1), lambda: metric.observe(1), lambda: metric.increment(-1)):
        with pytest.raises(pb_utils.TritonModelException, match="counter"):
            wrong()
    gauge = pb_utils.MetricFamily("unit_level", "Level", pb_utils.MetricFamily.GAUGE).Metric()
    gauge.set(3)
    gauge.increment(-1)
    histogram = pb_utils.MetricFamily("unit_time", "Time", pb_utils.MetricFamily.HISTOGRAM).Metric(buckets=[1, 2])
    for value in (0.5, 1.5, 9):
        histogram.observe(value)
    found = {one.name: one for one in metrics.samples() if one.name.startswith("unit_")}
    assert (found["unit_requests"].help, found["unit_requests"].labels) == ('Requests\nwith "quotes"', {"kind": 'a"b'})
    assert (found["unit_requests"].value, found["unit_level"].value) == (2.5, 2)
    assert (found["unit_time"].bounds, found["unit_time"].counts, found["unit_time"].value) == ((1, 2), [1, 1, 1], 11)
    for make in (
        lambda: pb_utils.MetricFamily("unit_level", "Level", pb_utils.MetricFamily.COUNTER),
        lambda: pb_utils.MetricFamily("no name", "", pb_utils.MetricFamily.COUNTER),
        lambda: family.Metric(buckets=[1]),
        lambda: family.Metric(labels={"no label": "x"}),
    ):
        with pytest.raises(pb_utils.TritonModelException):
            make()


def test_log_levels(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("DEBUG", logger="triton")
    monkeypatch.setattr(pb_utils.log, "write", pb_utils.log.write_plainly)
    pb_utils.Logger.log("plain")
    pb_utils.Logger.log("bad", pb_utils.Logger.ERROR)
    for write in ("log_info", "log_warn", "log_error", "log_verbose"):
        getattr(pb_utils.Logger, write)(message="100 %s")
    levels = {record.levelname for record in caplog.records}
    assert levels == {"INFO", "WARNING", "ERROR", "DEBUG"}


def made() -> pb_utils.ModelConfig:
    config = {"name": "m", "max_batch_size": 2, "input": [{"name": "A", "data_type": "TYPE_INVALID", "dims": []}]}
    return pb_utils.ModelConfig(json.dumps({**config, "output": []}))


def test_a_configuration_is_completed() -> None:
    config = made()
    config.set_max_batch_size(8)
    config.add_input({"name": "A", "data_type": "TYPE_FP32", "dims": [3], "optional": True})
    config.add_output({"name": "B", "data_type": "TYPE_FP32", "dims": [1]})
    config.set_dynamic_batching()
    config.set_model_transaction_policy({"decoupled": True})
    found = config.as_dict()
    assert (found["max_batch_size"], found["dynamic_batching"]) == (8, {})
    assert pb_utils.get_input_config_by_name(found, "A") == {
        "name": "A",
        "data_type": "TYPE_FP32",
        "dims": [3],
        "optional": True,
    }
    assert pb_utils.get_output_config_by_name(found, "C") is None
    assert pb_utils.using_decoupled_model_transaction_policy(found)
    assert not pb_utils.using_decoupled_model_transaction_policy({})


def test_a_configuration_is_not_contradicted() -> None:
    config = made()
    config.add_input({"name": "A", "data_type": "TYPE_FP32", "dims": [3]})
    config.set_model_transaction_policy({"decoupled": False})
    for call, argument, words in (
        (config.set_max_batch_size, 1, "max_batch_size is 2"),
        (config.add_input, {"name": "A", "data_type": "TYPE_FP64", "dims": [3]}, "TYPE_FP64"),
        (config.add_input, {"name": "A", "data_type": "TYPE_FP32", "dims": [4]}, "dims"),
        (config.add_input, {"name": "A", "dims": [4]}, "no 'data_type'"),
        (config.add_output, {"name": "B", "data_type": "TYPE_FP32", "dims": [4], "optional": True}, "'optional'"),
        (config.set_model_transaction_policy, {"decoupled": True}, "decoupled is False"),
        (config.set_model_transaction_policy, {"other": True}, "'other'"),
    ):
        with pytest.raises(ValueError, match=words):
            call(argument)  # type: ignore[operator]
    config.as_dict()["sequence_batching"] = {}
    with pytest.raises(ValueError, match="sequence_batching"):
        config.set_dynamic_batching()


def test_other_models_need_a_server() -> None:
    for call in (pb_utils.load_model, pb_utils.unload_model, pb_utils.is_model_ready):
        with pytest.raises(pb_utils.TritonModelException, match="no server"):
            call("m")
    with pytest.raises(pb_utils.TritonModelException, match="config"):
        pb_utils.load_model("m", config="{}")
