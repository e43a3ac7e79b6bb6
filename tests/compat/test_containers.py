"""The same scripts and requests under AWS's scikit-learn and XGBoost containers' own code, and here.

``make compat CONTAINERS=folder`` names a folder with checkouts of aws/sagemaker-scikit-learn-container and
aws/sagemaker-xgboost-container, and brings what these import; without it these are skipped.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.adapters.toolkit.handler import ToolkitHandler
from serving.errors import ServingError
from serving.testing import Client

CHECKOUTS = Path(os.environ.get("CONTAINERS") or "/nowhere")
SOURCES = [CHECKOUTS / f"sagemaker-{name}-container" / "src" for name in ("scikit-learn", "xgboost")]
PACKAGES = Path(".compat/containers").absolute()  # what they import
LIBRARIES = Path(".compat/libraries").absolute()

pytestmark = pytest.mark.skipif(
    not all(source.is_dir() for source in SOURCES), reason="CONTAINERS names no folder with checkouts of the containers"
)


ESTIMATOR = """
    from sklearn.linear_model import LinearRegression
    def model_fn(model_dir): return LinearRegression().fit([[0, 0], [1, 1], [2, 3]], [0, 2, 5.5])
"""
CLASSIFIER = """
    from sklearn.tree import DecisionTreeClassifier
    def model_fn(model_dir): return DecisionTreeClassifier().fit([[0, 0], [1, 1], [2, 3]], ["a", "b,c", "d"])
"""
OWN_PREDICT = (
    ESTIMATOR
    + """
    def predict_fn(data, model): return [model.predict(data.reshape(-1, 2)).tolist(), str(data.dtype)]
"""
)
OWN_OUTPUT = (
    ESTIMATOR
    + """
    from sagemaker_containers.beta.framework import encoders, worker
    def output_fn(prediction, accept):
        if accept == "application/json":
            return worker.Response(encoders.encode({"out": prediction.tolist()}, accept), accept, mimetype=accept)
        return worker.Response(encoders.encode(prediction, accept), accept, mimetype=accept)
"""
)
OWN_INPUT = (
    ESTIMATOR
    + """
    from io import StringIO
    import json, numpy as np
    from sagemaker_containers.beta.framework import content_types, encoders, env, modules, transformer, worker
    def input_fn(data, content_type):
        if content_type == content_types.CSV: return np.loadtxt(StringIO(data), delimiter=",", ndmin=2)
        return encoders.decode(data, content_type)
    def output_fn(prediction, accept): return encoders.encode(prediction, accept), accept
"""
)
BOOSTER = """
    import numpy as np, xgboost as xgb
    def model_fn(model_dir):
        rows = np.array([[0, 0], [1, 1], [2, 3], [4, 4]])
        return xgb.train({"max_depth": 2}, xgb.DMatrix(rows, label=[0, 1, 2, 3]), num_boost_round=2)
"""
BOOSTER_INPUT = (
    BOOSTER
    + """
    import json
    from sagemaker_containers.beta.framework import content_types, encoders
    from sagemaker_xgboost_container import encoder as xgb_encoders
    def input_fn(data, content_type):
        if content_type == "application/json": return xgb.DMatrix(np.array(json.loads(data)))
        return xgb_encoders.decode(data, content_type)
    def predict_fn(data, model): return model.predict(data, validate_features=False)
    def output_fn(prediction, accept):
        if accept == "application/json": return json.dumps({"p": [float(one) for one in prediction]}), accept
        return encoders.encode(prediction, accept), accept
"""
)


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(value))
    return buffer.getvalue()


TABLES = [
    (b"[[1, 2], [3, 4.5]]", "application/json"),
    (b"1,2\n3,4.5", "text/csv"),
    (b'"1","2"\n3,4', "text/csv"),
    (npy([[1.5, 2]]), "application/x-npy"),
    (npy(np.array([[1, 2]], np.float32)), "application/x-npy"),
    (b"x", "image/png"),
]
LINES = [
    (b"1,2\n3,4.5", "text/csv"),
    (b"1,2", "text/csv"),
    (b"1;2\n3;4", "text/csv"),
    (b"1,\n3,4", "text/csv"),
    (b"0:1 1:2\n1:4", "text/libsvm"),
    (b"1:1 2:2\n2:4", "text/x-libsvm"),
    (b"[[1, 2]]", "application/json"),
    (b"x", "image/png"),
]
ACCEPTS = ["application/json", "text/csv", "application/x-npy", "*/*", "", "image/png"]


Request = tuple[bytes, str, str]


def ask_theirs(kind: str, path: Path, requests: list[Request]) -> list[Any]:
    given = [(base64.b64encode(body).decode(), content_type, accept) for body, content_type, accept in requests]
    told = subprocess.run(
        [sys.executable, Path(__file__).with_name("containers.py"), kind, path],
        input=json.dumps(given),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*SOURCES, PACKAGES, LIBRARIES]))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    answers = json.loads(told.stdout.splitlines()[-1])
    return [(status, content_type, base64.b64decode(body)) for status, content_type, body in answers]


def ask_here(path: Path, requests: list[Request]) -> list[Any]:
    found: list[Any] = []
    with Client(ToolkitHandler(), path.parent, script=str(path)) as client:
        for body, kind, accept in requests:
            try:
                answer = client.invoke(body, kind, accept)
                found.append((answer.status, answer.content_type.partition(";")[0], bytes(answer.body)))
            except ServingError as error:
                found.append((error.status, "", b""))
    return found


SCRIPTS = {
    "estimator": ("sklearn", ESTIMATOR, TABLES),
    "classifier": ("sklearn", CLASSIFIER, TABLES),
    "own_predict": ("sklearn", OWN_PREDICT, TABLES),
    "own_output": ("sklearn", OWN_OUTPUT, TABLES),
    "own_input": ("sklearn", OWN_INPUT, [table for table in TABLES if b'"' not in table[0]]),
    "booster": ("xgboost", BOOSTER, LINES),
    "booster_input": ("xgboost", BOOSTER_INPUT, LINES),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_container_answers_is_answered_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(LIBRARIES))
    kind, script, bodies = SCRIPTS[name]
    path = tmp_path / f"script_of_{name}.py"
    path.write_text(textwrap.dedent(script))
    requests = [(body, content_type, accept) for (body, content_type), accept in itertools.product(bodies, ACCEPTS)]
    expected, found = ask_theirs(kind, path, requests), ask_here(path, requests)
    answered = [index for index, (status, _, _) in enumerate(expected) if status == 200]
    assert len(answered) >= len(requests) // 4
    for index in answered:
        assert found[index] == expected[index], requests[index]
    for request, want, got in zip(requests, expected, found, strict=True):
        assert want[0] == 200 or got[0] in (200, 400, 406, 415), request  # what they cannot is right here, or a 4xx
    with capsys.disabled():
        print(f"{name}: {len(answered)} of {len(requests)} answered there, all the same here")
