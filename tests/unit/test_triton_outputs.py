"""Outputs of a Triton model that are not as its configuration declares them: answered as Triton does, and warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_triton_handler import ONE, Rig, numbers
from tests.unit.test_triton_handler import own_modules as own_modules

OTHER_TYPE = "the model gives INT64 for an output that its configuration declares as INT32"
UNKNOWN = "the model gives an output that its configuration does not declare; it is left out"
MISSING = "the model gives no tensor for an output that its configuration declares"
UNTYPED = "input { name: 'IN' data_type: TYPE_INT32 dims: [-1] } output { name: 'OUT' dims: [-1] }"
UNDECLARED = "input { name: 'IN' data_type: TYPE_INT32 dims: [-1] }"


@pytest.mark.parametrize(
    ("config", "tensors", "given", "warned"),
    [
        (ONE, {"OUT": "int32"}, [("OUT", "INT32")], []),
        (ONE, {"OUT": "int64"}, [("OUT", "INT64")], [OTHER_TYPE]),
        (ONE, {"OUT": "int32", "MORE": "int32"}, [("OUT", "INT32")], [UNKNOWN]),
        (ONE, {}, [], [MISSING]),
        (ONE, {"Out": "int32"}, [], [UNKNOWN, MISSING]),
        (UNTYPED, {"OUT": "int64"}, [("OUT", "INT64")], []),
        (UNDECLARED, {"OUT": "int64"}, [("OUT", "INT64")], []),
    ],
)
def test_outputs_that_are_not_as_declared_are_warned_of_once(
    tmp_path: Path, config: str, tensors: Any, given: Any, warned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    script = f"""
    class TritonPythonModel:
        def execute(self, requests):
            tensors = [pb_utils.Tensor(name, np.ones(2, kind)) for name, kind in {tensors!r}.items()]
            return [pb_utils.InferenceResponse(tensors) for one in requests]
    """
    rig = Rig(tmp_path, config, script)
    caplog.clear()
    for _ in range(2):
        assert [(one["name"], one["datatype"]) for one in rig.ask(numbers(1))["outputs"]] == given
    assert [one.getMessage() for one in caplog.records] == warned
