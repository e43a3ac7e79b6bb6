"""Children that do not fork import a script that imports another server's packages: they find what stands for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.adapters import shims

NAMES = sorted(path.stem for path in Path(shims.HOME).glob("*.py"))
PROGRAM = "import importlib, json, sys; sys.path = json.loads(sys.argv[1]); print(importlib.import_module(sys.argv[2]))"


@pytest.mark.parametrize("name", NAMES)
def test_a_child_with_its_parents_path_can_import_it(name: str) -> None:
    path = json.dumps([*sys.path, shims.HOME])
    for word in (name, *[inner for inner in INNER if inner.startswith(f"{name}.")]):
        done = subprocess.run([sys.executable, "-c", PROGRAM, path, word], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


INNER = [
    *("djl_python.inputs", "sagemaker_inference.errors", "ts.utils.util", "sagemaker_containers.beta.framework.worker"),
    *("sagemaker_pytorch_serving_container.default_pytorch_inference_handler", "sagemaker_xgboost_container.encoder"),
]
