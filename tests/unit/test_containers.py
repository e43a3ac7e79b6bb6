"""Scripts of SageMaker's scikit-learn, XGBoost and Hugging Face containers: their defaults, and the names they import.

Estimators and boosters were written here, and what stands for xgboost; ``make compat`` has the real ones.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from serving import Request
from serving.adapters import shims
from serving.adapters.toolkit.handler import ToolkitHandler
from serving.errors import ServingError
from serving.handler import BatchPolicy
from serving.request import Response
from serving.testing import Client


class Rig:
    def __init__(self, folder: Path, script: str, max_size: int = 1) -> None:
        path = folder / "code" / "inference.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(script))
        handler = ToolkitHandler()
        handler.policy = BatchPolicy(max_size=max_size)
        self.client = Client(handler, folder, script=str(path))

    def ask(self, body: bytes, kind: str = "application/json", accept: str = "") -> Response:
        return self.client.invoke(body, kind, accept)

    def error(self, body: bytes, kind: str = "application/json", accept: str = "") -> ServingError:
        with pytest.raises(ServingError) as caught:
            self.ask(body, kind, accept)
        return caught.value


SHOW = """
    def show(value):
        if hasattr(value, "dtype"):
            return f"{type(value).__name__} {str(value.dtype).rpartition('.')[2]} {list(value.shape)} {value.tolist()}"
        return f"{type(value).__name__} {value!r}"
"""


# What a script without input_fn gets of JSON.


@pytest.mark.parametrize("function", ["predict_fn", "batch_predict_fn"])
@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b"[1, 2]", "Tensor float32 [2] [1.0, 2.0]"),
        (b"[[1, 2], [3, 4]]", "Tensor float32 [2, 2] [[1.0, 2.0], [3.0, 4.0]]"),
        (b"[]", "Tensor float32 [0] []"),
        (b"5", "Tensor float32 [] 5.0"),
        (b"[true, 0.5]", "Tensor float32 [2] [1.0, 0.5]"),
        (b"[null, 1]", "Tensor float32 [2] [nan, 1.0]"),
        (b"[18446744073709551616]", "Tensor float32 [1] [1.8446744073709552e+19]"),
        (b'{"inputs": "a b", "parameters": {"k": 1}}', "dict {'inputs': 'a b', 'parameters': {'k': 1}}"),
        (b"{}", "dict {}"),
        (b'{"inputs": [1, 2]}', "dict {'inputs': [1, 2]}"),
        (b'"text"', "str 'text'"),
        (b'"5"', "str '5'"),
        (b'["a", "b"]', "list ['a', 'b']"),
        (b'["1", "2"]', "list ['1', '2']"),
        (b'[1, "2"]', "list [1, '2']"),
        (b"[[1, 2], [3]]", "list [[1, 2], [3]]"),
        (b'[{"a": 1}, {"a": 2}]', "list [{'a': 1}, {'a': 2}]"),
        (b'[[1, {"a": 2}]]', "list [[1, {'a': 2}]]"),
        (b"[[[1], [2]], [3, 4]]", "list [[[1], [2]], [3, 4]]"),
        (b"null", "NoneType None"),
        (b'[null, "a"]', "list [None, 'a']"),
        (b"[[], [1]]", "list [[], [1]]"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_json_that_is_no_array_of_numbers_reaches_the_script_as_it_is(
    tmp_path: Path, function: str, body: bytes, seen: str
) -> None:
    many = function == "batch_predict_fn"
    script = (
        SHOW
        + f"""
    def model_fn(model_dir): return None
    def {function}(data, model): return {"[show(one) for one in data]" if many else "show(data)"}
    def output_fn(prediction, accept): return prediction
    """
    )
    assert bytes(Rig(tmp_path, script).ask(body).body).decode() == seen
    assert bytes(Rig(tmp_path, script).ask(body, "application/json; charset=utf-8").body).decode() == seen


def test_such_json_is_never_stacked(tmp_path: Path) -> None:
    script = (
        SHOW
        + """
    def model_fn(model_dir): return None
    def predict_fn(data, model): return show(data) if not hasattr(data, "shape") else data
    def output_fn(prediction, accept): return str(prediction)
    """
    )
    bodies = [b'{"a": 1}', b'{"a": 2}', b'["x"]', b'["y"]']
    answers = Rig(tmp_path, script, max_size=4).client.batch([Request(body, "application/json") for body in bodies])
    found = [bytes(one.body).decode() for one in answers]  # type: ignore[union-attr]
    assert found == ["dict {'a': 1}", "dict {'a': 2}", "list ['x']", "list ['y']"]


NET = """
    import torch
    def model_fn(model_dir): return torch.nn.Flatten(0)
"""


@pytest.mark.parametrize(
    "body", [b'{"a": 1}', b'"text"', b'["a"]', b'["1"]', b"[[1], [1, 2]]", b"null", b"{", b"[1e999999"]
)
def test_for_a_network_without_predict_fn_it_is_the_clients_mistake(tmp_path: Path, body: bytes) -> None:
    assert Rig(tmp_path, NET).error(body).status == 400


# Estimators: what has predict and cannot be called.

ESTIMATOR = (
    SHOW
    + """
    import numpy as np
    class Adder:
        classes_ = ["no", "yes"]
        def predict(self, data):
            assert type(data) is np.ndarray, type(data)
            if data.ndim != 2: raise ValueError("Expected 2D array")
            return data.sum(1)
    def model_fn(model_dir): return Adder()
"""
)


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(value))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        (b"[[1, 2], [3, 4]]", "application/json", [3, 7]),
        (b"[1, 2]", "application/json", [3]),
        (b"1,2\n3,4", "text/csv", [3, 7]),
        (b"1,2\n3,4\n", "text/csv", [3, 7]),
        (b"1,2", "text/csv", [3]),
        (b"1\n2", "text/csv", [1, 2]),
        (b"5", "text/csv", [5]),
        (b'"1","2.5"\r\n', "text/csv; charset=utf-8", [3.5]),
        (npy([[1, 2]]), "application/x-npy", [3]),
        (npy([1, 2]), "application/x-npy", [3]),
    ],
)
def test_an_estimator_predicts_without_a_predict_fn(tmp_path: Path, body: bytes, kind: str, seen: list[float]) -> None:
    answer = Rig(tmp_path, ESTIMATOR).ask(body, kind)
    assert (json.loads(bytes(answer.body)), answer.content_type) == (seen, "application/json")


@pytest.mark.parametrize(
    ("accept", "kind", "body"),
    [
        ("", "application/json", b"[3.0, 7.5]"),
        ("*/*", "application/json", b"[3.0, 7.5]"),
        ("text/csv", "text/csv", b"3.0\n7.5\n"),
        ("application/x-npy", "application/x-npy", npy(np.array([3, 7.5], np.float32))),
    ],
)
def test_what_it_predicts_has_the_containers_form(tmp_path: Path, accept: str, kind: str, body: bytes) -> None:
    answer = Rig(tmp_path, ESTIMATOR).ask(b"[[1, 2], [3, 4.5]]", accept=accept)
    assert (bytes(answer.body), answer.content_type) == (body, kind)


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        (b"[1, 2]", "application/json", "ndarray float32 [1, 2] [[1.0, 2.0]]"),
        (b"1,2\n3,4", "text/csv", "ndarray float32 [2, 2] [[1.0, 2.0], [3.0, 4.0]]"),
        (npy([[1, 2]]), "application/x-npy", "ndarray int64 [1, 2] [[1, 2]]"),
        (b'{"x": [1]}', "application/json", "dict {'x': [1]}"),
        (b'["a b"]', "application/json", "list ['a b']"),
    ],
)
def test_its_own_predict_fn_gets_arrays(tmp_path: Path, body: bytes, kind: str, seen: str) -> None:
    script = ESTIMATOR + "    def predict_fn(data, model): return show(data)\n    def output_fn(x, accept): return x\n"
    assert bytes(Rig(tmp_path, script).ask(body, kind).body).decode() == seen


@pytest.mark.parametrize("body", [b'{"a": 1}', b'["x", 1]', b"[[1], [1, 2]]", b"null", b'"x"'])
def test_what_is_no_input_of_an_estimator_is_the_clients_mistake(tmp_path: Path, body: bytes) -> None:
    assert Rig(tmp_path, ESTIMATOR).error(body).status == 400


@pytest.mark.parametrize("body", [b"a,b\n1,2", b"1,2\n3", b"", b"\xff\xfe"])
def test_csv_that_is_no_table_of_numbers_is_too(tmp_path: Path, body: bytes) -> None:
    assert Rig(tmp_path, ESTIMATOR).error(body, "text/csv").status == 400


def test_texts_reach_an_estimator_of_texts(tmp_path: Path) -> None:
    script = """
    class Lengths:
        def predict(self, data): return [len(one) for one in data]
    def model_fn(model_dir): return Lengths()
    """
    assert bytes(Rig(tmp_path, script).ask(b'["a", "bcd"]').body) == b"[1, 3]"


def test_scikit_learns_own(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    script = """
    from sklearn.linear_model import LinearRegression
    def model_fn(model_dir): return LinearRegression().fit([[0, 0], [1, 1], [2, 3]], [0, 2, 5])
    """
    assert json.loads(bytes(Rig(tmp_path, script).ask(b"1,1\n2,3", "text/csv").body)) == pytest.approx([2, 5])


def test_what_can_be_called_is_called_though_it_has_predict(tmp_path: Path) -> None:
    script = """
    class Both:
        def predict(self, data): raise AssertionError
        def __call__(self, data): return data * 2
    def model_fn(model_dir): return Both()
    """
    assert bytes(Rig(tmp_path, script).ask(b"[1, 2]").body) == b"[2.0, 4.0]"


# XGBoost.


class DMatrix:
    def __init__(self, data: Any, label: Any = None) -> None:
        self.data, self.label = np.asarray(data), label
        assert self.data.ndim == 2, "Expecting 2 dimensional numpy.ndarray"


class Booster:
    def predict(self, data: Any, validate_features: bool = True) -> Any:
        assert isinstance(data, DMatrix)
        assert not validate_features
        return np.nansum(data.data, axis=1).astype(np.float32)


@pytest.fixture
def xgboost(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("xgboost")
    vars(module).update(DMatrix=DMatrix, Booster=Booster)
    monkeypatch.setitem(sys.modules, "xgboost", module)
    monkeypatch.setattr(Booster, "__module__", "xgboost.core")
    yield
    for name in [name for name in sys.modules if name.startswith("sagemaker_xgboost_container")]:
        monkeypatch.delitem(sys.modules, name)


BOOSTER = """
    import xgboost as xgb
    def model_fn(model_dir): return xgb.Booster()
"""


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        (b"1,2\n3,4", "text/csv", [3, 7]),
        (b"1,2", "text/csv", [3]),
        (b"1;2\n3;4", "text/csv", [3, 7]),
        (b"1\t2", "text/csv", [3]),
        (b"1,,2\n", "text/csv", [3]),
        (b"5", "text/csv", [5]),
        (b"0:1 1:2\n1:4", "text/libsvm", [3, 4]),
        (b"1 1:1 2:2\n0 2:4\n", "text/x-libsvm", [3, 4]),
        (b"[[1, 2], [3, 4]]", "application/json", [3, 7]),
        (b"[1, 2]", "application/json", [3]),
        (npy([[1, 2]]), "application/x-npy", [3]),
    ],
)
@pytest.mark.usefixtures("xgboost")
def test_a_booster_predicts_from_a_matrix(tmp_path: Path, body: bytes, kind: str, seen: list[float]) -> None:
    rig = Rig(tmp_path, BOOSTER)
    assert json.loads(bytes(rig.ask(body, kind).body)) == seen
    expected = "".join(f"{float(value)}\n" for value in seen).encode()
    assert bytes(rig.ask(body, kind, "text/csv").body) == expected


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x", "image/png", 415),
        (b"x", "application/x-recordio-protobuf", 415),
        (b"a,b", "text/csv", 400),
        (b"", "text/csv", 400),
        (b"", "text/libsvm", 400),
        (b"1:x", "text/libsvm", 400),
        (b"0:1 1000000000000:1", "text/libsvm", 400),
        (b"-1:1", "text/libsvm", 400),
        (b'{"a": 1}', "application/json", 400),
    ],
)
@pytest.mark.usefixtures("xgboost")
def test_what_is_no_matrix_is_the_clients_mistake(tmp_path: Path, body: bytes, kind: str, status: int) -> None:
    assert Rig(tmp_path, BOOSTER).error(body, kind).status == status


@pytest.mark.usefixtures("xgboost")
def test_the_encoder_of_the_xgboost_container(tmp_path: Path) -> None:
    script = """
    import json
    import xgboost as xgb
    from sagemaker_containers.beta.framework import content_types, encoders, worker
    from sagemaker_xgboost_container import encoder as xgb_encoders
    from sagemaker_xgboost_container.data_utils import get_dmatrix, get_size, get_content_type
    from sagemaker_xgboost_container import distributed
    from sagemaker_containers import entry_point
    def model_fn(model_dir): return xgb.Booster()
    def input_fn(data, content_type):
        if content_type == content_types.JSON:
            return xgb.DMatrix(json.loads(data)["rows"])
        return xgb_encoders.decode(data, content_type)
    def output_fn(prediction, accept):
        if accept == "application/jsonlines":
            return worker.Response(xgb_encoders.json_to_jsonlines({"p": prediction.tolist()}), mimetype=accept)
        return worker.Response(encoders.encode(prediction, accept), mimetype=accept)
    def predict_fn(data, model): return model.predict(data, validate_features=False)
    """
    rig = Rig(tmp_path, script)
    assert bytes(rig.ask(b'{"rows": [[1, 2]]}').body) == b"[3.0]"
    assert bytes(rig.ask(b"0:1 1:2", "text/libsvm", "text/csv").body) == b"3.0\n"
    assert bytes(rig.ask(b"1,2\n3,4", "text/csv", "application/jsonlines").body) == b"3.0\n7.0\n"
    assert rig.error(b"x", "image/png").status == 415
    assert rig.error(b"1,2", "text/csv", "image/png").status == 406


# sagemaker_containers.


@pytest.mark.parametrize(
    ("expression", "seen"),
    [
        (
            "content_types.JSON, content_types.CSV, content_types.NPY",
            "('application/json', 'text/csv', 'application/x-npy')",
        ),
        ("content_types.UTF8_TYPES, content_types.ANY", "(['application/json', 'text/csv'], '*/*')"),
        ("encoders.decode('[1, 2]', 'application/json').tolist()", "[1, 2]"),
        ("encoders.decode('1,2\\n3,4', 'text/csv').tolist()", "[[1.0, 2.0], [3.0, 4.0]]"),
        ("encoders.decode('1,2', 'text/csv').tolist()", "[1.0, 2.0]"),
        ("encoders.decode('a,\"b,c\"', 'text/csv').tolist()", "['a', 'b,c']"),
        ("encoders.csv_to_numpy('1,2', dtype='int64').tolist()", "[1, 2]"),
        ("encoders.json_to_numpy('[1]', dtype='float32').dtype", "float32"),
        ("encoders.npy_to_numpy(encoders.array_to_npy([1])).tolist()", "[1]"),
        ("encoders.encode(np.array([[1, 2.5]]), 'text/csv')", "1.0,2.5\n"),
        ("encoders.encode(np.array([0.1, 2], np.float32), 'text/csv')", "0.1\n2.0\n"),
        ("encoders.encode(['a', 'b,c', 'd\"e'], 'text/csv')", 'a\n"b,c"\n"d""e"\n'),
        ("encoders.encode({'a': np.array([1])}, 'application/json')", '{"a": [1]}'),
        ("encoders.array_to_json([np.float32(1)])", "[1.0]"),
        ("env.ServingEnv().default_accept", "application/json"),
        ("env.ServingEnv()['module_name']", "None"),
        ("env.ServingEnv().model_dir == env.model_dir", "True"),
        ("sorted(dict(env.ServingEnv()))[0]", "current_host"),
        ("issubclass(errors.UnsupportedFormatError, Exception)", "True"),
        ("transformer.default_model_fn, modules, server, trainer, mapping, params, files, functions, process", None),
    ],
)
def test_names_of_the_containers(
    tmp_path: Path, expression: str, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAGEMAKER_PROGRAM", raising=False)
    script = f"""
    import numpy as np
    from sagemaker_containers.beta.framework import (
        content_types, encoders, env, errors, files, functions, mapping, modules, params, process, server, trainer,
        transformer, worker)
    from sagemaker_containers import _content_types, _errors, entry_point
    import sagemaker_containers.beta.framework as framework
    def model_fn(model_dir): return str(({expression}))
    def transform_fn(model, data, content_type, accept): return model, "text/plain"
    """
    found = bytes(Rig(tmp_path, script).ask(b"").body).decode()
    assert seen is None or found == seen


@pytest.mark.parametrize(
    ("response", "status", "kind", "body"),
    [
        ("worker.Response('a', 'text/csv', mimetype='text/csv')", 200, "text/csv; charset=utf-8", b"a"),
        ("worker.Response(b'\\x00', mimetype='application/x-npy')", 200, "application/x-npy", b"\0"),
        ("worker.Response('{}')", 200, "application/json", b"{}"),
        (
            "worker.Response(response='ä', status=202, mimetype='text/plain')",
            202,
            "text/plain; charset=utf-8",
            "ä".encode(),
        ),
        ("worker.Response(['a', b'b'], mimetype='application/jsonlines')", 200, "application/jsonlines", b"ab"),
        ("worker.Response(status=204)", 204, "application/json", b""),
        ("worker.Response('x', status='418 I am a teapot')", 418, "application/json", b"x"),
        ("worker.Response('x', mimetype='text/csv; charset=utf-8')", 200, "text/csv; charset=utf-8", b"x"),
    ],
)
@pytest.mark.parametrize("function", ["output_fn", "transform_fn"])
def test_a_response_of_the_containers_is_the_answer(
    tmp_path: Path, function: str, response: str, status: int, kind: str, body: bytes
) -> None:
    four = "model, data, content_type, accept"
    script = f"""
    from sagemaker_containers.beta.framework import worker
    def model_fn(model_dir): return None
    def {function}({"prediction, accept" if function == "output_fn" else four}): return {response}
    {"def predict_fn(data, model): return data" if function == "output_fn" else ""}
    """
    answer = Rig(tmp_path, script).ask(b"[1]")
    assert (answer.status, answer.content_type, bytes(answer.body)) == (status, kind, body)


IN_A_CHILD = """
import sys
sys.path.append(sys.argv[1])
import sagemaker_containers
from sagemaker_containers.beta.framework import encoders, worker
import sagemaker_xgboost_container.encoder as xgb_encoders
print(encoders.encode([1], "application/json"), worker.Response("x").get_data(), xgb_encoders.decode.__name__)
"""


def test_children_that_do_not_fork_find_them_too() -> None:
    told = subprocess.run([sys.executable, "-c", IN_A_CHILD, shims.HOME], capture_output=True, text=True, timeout=60)
    assert told.stdout == "[1] b'x' decode\n", told.stderr


# A pipeline of transformers.

PIPELINE = """
    class Pipeline:
        def __call__(self, inputs, **parameters): return [{"inputs": inputs, **parameters}]
    Pipeline.__module__ = "transformers.pipelines.base"
    def model_fn(model_dir): return Pipeline()
"""


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ({"inputs": "a"}, {"inputs": "a"}),
        ({"inputs": ["a", "b"], "parameters": {"top_k": 1}}, {"inputs": ["a", "b"], "top_k": 1}),
        ({"question": "q", "context": "c"}, {"inputs": {"question": "q", "context": "c"}}),
        (["a", "b"], {"inputs": ["a", "b"]}),
        ("a", {"inputs": "a"}),
    ],
)
def test_a_pipeline_is_called_with_what_is_under_inputs(tmp_path: Path, body: Any, seen: Any) -> None:
    assert json.loads(bytes(Rig(tmp_path, PIPELINE).ask(json.dumps(body).encode()).body)) == [seen]


# sagemaker_inference.environment.


def test_the_environment_of_the_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_TIMEOUT", "90")
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "2")
    for name in ("SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_MODEL_SERVER_WORKERS", "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"):
        monkeypatch.delenv(name, raising=False)
    script = """
    import json
    from sagemaker_inference import environment, parameters
    from sagemaker_inference.environment import Environment, base_dir, code_dir, model_dir
    def model_fn(given):
        own = Environment()
        return [model_dir == given, code_dir == given + "/code", base_dir, own.module_name, own.model_server_timeout,
                own.model_server_workers, own.default_accept, own.inference_http_port, own.management_http_port,
                own.max_request_size, own.startup_timeout, own.safe_port_range, own.model_server_timeout_seconds,
                parameters.USER_PROGRAM_ENV]
    def transform_fn(model, data, content_type, accept): return json.dumps(model)
    """
    found = json.loads(bytes(Rig(tmp_path, script).ask(b"").body))
    assert found == [
        *(True, True, "/opt/ml", "inference", 90, None, "application/json", "8080", "8080", 2 << 20, 600, None, None),
        "SAGEMAKER_PROGRAM",
    ]
