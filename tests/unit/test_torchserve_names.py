"""The names that TorchServe's handlers import, each of them, where TorchServe is not installed; the Context whole."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.adapters.context import Context, RequestProcessor, headers_of
from serving.adapters.torchserve import names
from serving.adapters.torchserve.metrics import Dimension, Metrics, MetricTypes
from serving.request import Request

names.install()

NAMES = """
ts.version __version__
ts.context Context RequestProcessor
ts.service emit_metrics
ts.torch_handler.base_handler BaseHandler
ts.torch_handler.vision_handler VisionHandler
ts.torch_handler.text_handler TextHandler
ts.torch_handler.image_classifier ImageClassifier
ts.torch_handler.image_segmenter ImageSegmenter
ts.torch_handler.object_detector ObjectDetector
ts.torch_handler.text_classifier TextClassifier
ts.torch_handler.contractions CONTRACTION_MAP
ts.torch_handler.request_envelope.base BaseEnvelope
ts.torch_handler.request_envelope.body BodyEnvelope
ts.torch_handler.request_envelope.json JSONEnvelope
ts.torch_handler.request_envelope.kserve KServeEnvelope
ts.torch_handler.request_envelope.kservev2 KServev2Envelope
ts.utils.util PredictionException list_classes_from_module load_label_mapping map_class_to_label
ts.utils.util check_valid_pt2_backend get_yaml_config PT2Backend deprecated CLEANUP_REGEX
ts.utils.timeit_decorator timeit
ts.handler_utils.utils send_intermediate_predict_response import_class
ts.handler_utils.timer timed
ts.handler_utils.micro_batching MicroBatching
ts.handler_utils.text_utils get_tokenizer ngrams_iterator
ts.protocol.otf_message_handler send_intermediate_predict_response
ts.metrics.dimension Dimension
ts.metrics.metric Metric
ts.metrics.caching_metric CachingMetric
ts.metrics.metric_type_enum MetricTypes
ts.metrics.metric_cache_errors MetricsCacheKeyError MetricsCacheTypeError MetricsCacheValueError
ts.metrics.metrics_store MetricsStore
ts.metrics.unit Units
"""


def util() -> Any:
    return importlib.import_module("ts.utils.util")


@pytest.mark.parametrize("line", NAMES.strip().splitlines())
def test_each_name_can_be_imported(line: str) -> None:
    module, *wanted = line.split()
    found = importlib.import_module(module)
    assert all(hasattr(found, name) for name in wanted)


def test_the_names_are_put_in_place_for_a_model_only() -> None:
    code = "import serving.adapters.torchserve.handler, sys; print('ts' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_a_module_of_that_name_that_the_model_brings_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ts.py").write_text("word = 'mine'\n")
    code = "from serving.adapters.torchserve import names; names.install(); import ts; print(ts.word)"
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip() == "mine"


# ts.utils.util


def test_label_mappings(tmp_path: Path) -> None:
    path = tmp_path / "index_to_name.json"
    load = util().load_label_mapping
    assert load(path) is None
    for written in ({"0": "cat"}, {"0": ["n01", "cat"]}, {"object_type_names": ["cat"]}):
        path.write_text(json.dumps(written))
        assert load(str(path)) == {"0": "cat"}
    for wrong in ([1], {"0": 3}, {"0": []}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="allowed"):
            load(path)


def test_labels_of_classes() -> None:
    to_label = util().map_class_to_label
    assert to_label([[0.9, 0.1]], {"3": "cat", "1": "dog"}, [[3, 1]]) == [{"cat": 0.9, "dog": 0.1}]
    assert to_label([[0.9, 0.1], [0.5, 0.5]]) == [{"0": 0.9, "1": 0.1}, {"0": 0.5, "1": 0.5}]
    with pytest.raises(TypeError):
        to_label(((0.1,),))


def test_classes_of_a_module() -> None:
    found = util().list_classes_from_module(importlib.import_module("ts.torch_handler.image_classifier"))
    assert [one.__name__ for one in found] == ["ImageClassifier"]
    assert util().list_classes_from_module(util(), Exception) == [util().PredictionException]


def test_the_rest_of_util(tmp_path: Path) -> None:
    assert str(util().PredictionException("no", 404)) == "no : 404"
    assert util().check_valid_pt2_backend("inductor")
    assert not util().check_valid_pt2_backend("nothing")
    (tmp_path / "a.yaml").write_text("a: 1")
    assert util().get_yaml_config(str(tmp_path / "a.yaml")) == {"a": 1}
    with pytest.warns(PendingDeprecationWarning, match="use new"):
        assert util().deprecated("1.0", "new")(abs)(-1) == 1


def test_classes_by_name() -> None:
    load = importlib.import_module("ts.handler_utils.utils").import_class
    assert load("decoder.JSONDecoder", "json") is json.JSONDecoder
    for wrong in ("", "json.none", "alone"):
        with pytest.raises(ImportError):
            load(wrong)


# Context


def context() -> Context:
    found = Context("m", "/m", {"model": {}}, 2, None, "1", True, Metrics("m"), {"handler": {"k": 1}})
    found.request_processor = [RequestProcessor({"Content-Type": "a/b"}), RequestProcessor({})]
    found.request_ids = {0: "x", 1: "y"}
    return found


def test_every_member_of_the_context() -> None:
    one = context()
    assert (one.model_name, one.manifest, one.model_yaml_config) == ("m", {"model": {}}, {"handler": {"k": 1}})
    assert set(one.system_properties) == {
        "model_dir", "gpu_id", "batch_size", "server_name", "server_version", "limit_max_image_pixels"
    }  # fmt: skip
    assert (one.stopping_criteria, one.cl_socket) == (None, None)
    assert (one.get_request_id(1), one.get_request_id(), one.get_request_id(9)) == ("y", "x", None)


def test_request_headers_by_index_and_whatever_their_case() -> None:
    one = context()
    assert one.get_request_header(0, "content-type") == "a/b"
    assert one.get_request_header(1, "content-type") is None
    assert one.get_all_request_header(0) == {"Content-Type": "a/b"}


def test_responses_by_index() -> None:
    one = context()
    one.set_response_content_type(1, "c/d")
    one.set_response_header(0, "A", "b")
    one.set_response_status(201, "made", 1)
    assert (one.get_response_content_type(0), one.get_response_content_type(1)) == (None, "c/d")
    assert (one.get_response_headers(0), one.get_response_headers(1)) == ({"A": "b"}, {"content-type": "c/d"})
    assert (one.get_response_status(0), one.get_response_status(1)) == ((200, None), (201, "made"))
    one.set_all_response_status(202, "ok")
    assert one.get_response_status(0) == one.get_response_status(1) == (202, "ok")


def test_while_the_model_loads_there_is_no_request() -> None:
    one = Context("m", "/m", None, 1, None, "1")
    one.set_response_status(500)
    one.set_all_response_status(500)
    assert one.get_request_id() is None
    with pytest.raises(RuntimeError, match="no request"):
        one.get_request_header(0, "a")


def test_headers_of_the_platform_have_its_spelling_and_the_session_is_the_sequence() -> None:
    request = Request(b"", "a/b", "c/d", sagemaker={"custom-attributes": "k=v", "session-id": "s1"})
    headers = headers_of(request)
    assert headers == {
        "Content-Type": "a/b",
        "Accept": "c/d",
        "X-Amzn-SageMaker-Custom-Attributes": "k=v",
        "X-Amzn-SageMaker-Session-Id": "s1",
    }
    one = context()
    one.request_processor = [RequestProcessor(headers)]
    assert one.get_sequence_id(0) == "s1"


# Metrics


def test_metrics_of_each_kind() -> None:
    metrics = Metrics("m")
    metrics.set_request_ids({0: "x"})
    metrics.add_counter("hits", 1, 0)
    metrics.add_counter("hits", 2)
    metrics.add_time("t", 1.5, None, "s")
    metrics.add_size("s", 3, unit="kB")
    metrics.add_percent("p", 50, dimensions=[Dimension("Level", "Model")])
    metrics.add_error("e", "text")
    metrics.add_metric("g", 4, "x", metric_type=MetricTypes.GAUGE)
    assert metrics.get_metric("hits").values == {(): 3}
    assert metrics.get_metric("p", MetricTypes.GAUGE).values == {("Model",): 50}
    for wrong in (metrics.add_time, metrics.add_size):
        with pytest.raises(ValueError, match="allowed"):
            wrong("t", 1, unit="h")
    with pytest.raises(KeyError, match="no counter called 'none'"):
        metrics.get_metric("none")


def test_metrics_of_a_handlers_own() -> None:
    own = Metrics("m").add_metric_to_cache("n", "count", ["Level"], MetricTypes.COUNTER)
    own.add_or_update(2, ["a"])
    own.update(3, "id", [Dimension("Level", "a")])
    assert own.values == {("a",): 5}


def test_a_metric_that_does_not_fit_costs_no_request_its_answer() -> None:
    own = Metrics("m").add_metric_to_cache("n", "count", ["Level"], MetricTypes.COUNTER)
    own.add_or_update(1, [])
    own.add_or_update(-1, ["a"])
    assert own.values == {}
    with pytest.raises(importlib.import_module("ts.metrics.metric_cache_errors").MetricsCacheKeyError):
        Metrics("m").get_metric("n")


def test_the_older_metrics() -> None:
    metric = importlib.import_module("ts.metrics.metric").Metric("n", 1, "ms", [Dimension("a", "b")], "r", "counter")
    metric.update(2)
    assert str(metric) == "n.ms:3|#a:b"
    assert metric.to_dict()["Dimensions"] == [{"Name": "a", "Value": "b"}]
    metric.reset()
    assert metric.value == 0
    importlib.import_module("ts.service").emit_metrics([metric])
    assert importlib.import_module("ts.metrics.metrics_store").MetricsStore({0: "x"}, "m").request_ids == {0: "x"}
    assert importlib.import_module("ts.metrics.unit").Units().units["ms"] == "Milliseconds"


def test_micro_batches_run_one_after_the_other() -> None:
    class Handler:
        context: Any = None

        def preprocess(self, data: list[int]) -> list[int]:
            return data

        def inference(self, data: list[int]) -> list[tuple[int, int]]:
            return [(one, len(data)) for one in data]

        def postprocess(self, data: list[tuple[int, int]]) -> list[tuple[int, int]]:
            return data

    handle = importlib.import_module("ts.handler_utils.micro_batching").MicroBatching(Handler(), 2, {"inference": 3})
    assert handle([1, 2, 3], None) == [(1, 2), (2, 2), (3, 1)]
    assert handle.get_micro_batch_idx() == 1
