"""The Python model for Triton, ``model.py`` of a repository."""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path[:0] = os.environ["MODULES"].split(":")  # the server starts Python without our path

import numpy as np  # noqa: E402
import workload  # noqa: E402

import triton_python_backend_utils as pb_utils  # noqa: E402


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.model = workload.build(os.environ["SHAPE"])

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = [pb_utils.get_input_tensor_by_name(request, "numbers") for request in requests]
        arrays = [one.as_numpy() for one in inputs if one is not None]
        outputs = workload.run(self.model, list(np.concatenate(arrays)))
        answers, at = [], 0
        for array in arrays:
            tensor = pb_utils.Tensor("answer", outputs[at : at + len(array)])
            answers.append(pb_utils.InferenceResponse([tensor]))
            at += len(array)
        return answers
