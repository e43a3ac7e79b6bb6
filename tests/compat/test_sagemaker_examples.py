"""AWS's own example scripts for the scikit-learn and XGBoost containers, which nobody here wrote: each runs as it is.

``make compat SAGEMAKER_EXAMPLES=folder`` names a checkout of aws/amazon-sagemaker-examples; without it these are
skipped. The models that they load are trained here on a few rows, and what they answer is compared with the models.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.adapters.toolkit.handler import ToolkitHandler
from serving.testing import Client

EXAMPLES = Path(os.environ.get("SAGEMAKER_EXAMPLES") or "/nowhere")
LIBRARIES = Path(".compat/libraries").absolute()  # XGBoost and pandas
ROWS = np.array([[0.0, 1], [1, 0], [2, 3], [4, 1], [5, 5], [6, 2]])
SEXES = ["M", "F", "I", "M", "F", "I"]

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="SAGEMAKER_EXAMPLES names no checkout of these examples"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # they leave files open
]


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LIBRARIES))


def example(folder: Path, end: str) -> Path:
    """The example whose path ends so, as the script of the model in ``folder``."""
    [found] = [path for path in EXAMPLES.rglob(Path(end).name) if str(path).endswith(end)]
    script = folder / "code" / found.name
    script.parent.mkdir()
    shutil.copy(found, script)
    return script


def booster() -> Any:
    import xgboost

    return xgboost.train({"max_depth": 2}, xgboost.DMatrix(ROWS, label=ROWS.sum(1)), num_boost_round=3)


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=5, random_state=0).fit(ROWS, ROWS.sum(1) > 4)


@pytest.mark.parametrize(
    "end", ["sm-shadow_variant_shadow_api/code/randomforest.py", "sklearn-inference-recommender/code/inference.py"]
)
def test_a_forest(tmp_path: Path, end: str) -> None:
    import joblib

    model = forest()
    joblib.dump(model, tmp_path / "model.joblib")
    expected = model.predict(ROWS).tolist()
    with Client(ToolkitHandler(), tmp_path, script=str(example(tmp_path, end))) as client:
        table = "\n".join(",".join(map(str, row)) for row in ROWS).encode()
        for body, kind in ((table, "text/csv"), (json.dumps(ROWS.tolist()).encode(), "application/json")):
            assert json.loads(bytes(client.invoke(body, kind).body)) == expected
        answer = client.invoke(table, "text/csv", "text/csv")
        assert bytes(answer.body).decode().split() == [str(one) for one in expected]


def test_a_featurizer(tmp_path: Path) -> None:
    import joblib
    import pandas
    from sklearn.compose import ColumnTransformer, make_column_selector
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    names = ("length", "diameter", "height", "whole_weight", "shucked_weight", "viscera_weight", "shell_weight")
    numbers = {name: ROWS[:, index % 2] + index for index, name in enumerate(names)}
    table = pandas.DataFrame({"sex": pandas.Categorical(SEXES), **numbers})
    apart = [
        ("num", StandardScaler(), make_column_selector(dtype_exclude="category")),
        ("cat", OneHotEncoder(), make_column_selector(dtype_include="category")),
    ]
    model = ColumnTransformer(apart).fit(table)
    joblib.dump(model, tmp_path / "model.joblib")
    script = example(tmp_path, "sklearn_abalone_featurizer.py")
    with Client(ToolkitHandler(), tmp_path, script=str(script)) as client:
        body = table.to_csv(header=False, index=False).encode()
        answer = client.invoke(body, "text/csv", "application/json")
        features = [one["features"] for one in json.loads(bytes(answer.body))["instances"]]
        np.testing.assert_allclose(features, model.transform(table))
        assert answer.content_type == "application/json"
        answer = client.invoke(body, "text/csv", "text/csv")
        lines = [[float(cell) for cell in line.split(",")] for line in bytes(answer.body).decode().splitlines()]
        np.testing.assert_allclose(lines, model.transform(table))


def test_a_booster_with_its_contributions(tmp_path: Path) -> None:
    model = booster()
    (tmp_path / "xgboost-model").write_bytes(pickle.dumps(model))
    script = example(tmp_path, "sm-regression_xgboost/inference.py")
    with Client(ToolkitHandler(), tmp_path, script=str(script)) as client:
        answer = client.invoke(b"0:2 1:3", "text/libsvm", "text/csv")
        found = [float(cell) for cell in bytes(answer.body).decode().split(",")]
        assert len(found) == 4
        assert sum(found[1:]) == pytest.approx(found[0], rel=1e-4)
        assert found[0] == pytest.approx(predicted(model, [[2, 3]])[0], rel=1e-5)


def test_a_booster_with_its_own_input(tmp_path: Path) -> None:
    model = booster()
    (tmp_path / "model.bin").write_bytes(pickle.dumps(model))
    script = example(tmp_path, "clarify-explainability-inference-pipelines/inference/xgboost/inference.py")
    with Client(ToolkitHandler(), tmp_path, script=str(script)) as client:
        for body, kind in ((b"[[2, 3], [5, 5]]", "application/json"), (b"2,3\n5,5", "text/csv")):
            found = json.loads(bytes(client.invoke(body, kind).body))
            assert found == pytest.approx(predicted(model, [[2, 3], [5, 5]]))


def predicted(model: Any, rows: list[list[int]]) -> Any:
    import xgboost

    return model.predict(xgboost.DMatrix(np.array(rows)))
