"""User code in the form of AWS's toolkit."""

from __future__ import annotations

import os
from typing import Any

import torch
import workload


def model_fn(model_dir: str, context: Any = None) -> torch.nn.Module:
    return workload.build(os.environ["SHAPE"])


def input_fn(body: bytes, content_type: str, context: Any = None) -> workload.Array:
    return workload.SHAPES[os.environ["SHAPE"]].read(body)


def predict_fn(sample: workload.Array, model: torch.nn.Module, context: Any = None) -> workload.Array:
    return workload.run(model, [sample])


def output_fn(output: workload.Array, accept: str, context: Any = None) -> bytes:
    return bytes(output[0].tobytes())
