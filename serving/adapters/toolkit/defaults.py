"""Defaults: input, prediction and output of SageMaker's containers, for scripts that do not define their own.

A folder does not name its container, but the model's type does: networks belong to the PyTorch container; estimators,
which have ``predict`` but are not callable, to scikit-learn's; boosters to XGBoost's; and pipelines of transformers to
Hugging Face's.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import claims, codecs
from serving.adapters.toolkit import sagemaker_containers, sagemaker_xgboost
from serving.adapters.toolkit import sagemaker_inference as toolkit
from serving.adapters.toolkit.sagemaker_inference import CSV, JSON, NPY, UnsupportedFormatError
from serving.codecs.exact import float32
from serving.codecs.measuring import csv_cost, json_cost
from serving.errors import BadRequest, UnsupportedMediaType
from serving.request import Request, Response


class Defaults:
    """The PyTorch container's.

    With ``own`` the script itself predicts, and also gets JSON that is no array of numbers.
    """

    def __init__(self, device: str, own: bool) -> None:
        self.device = device
        self.own = own

    def input(self, request: Request, data: str | bytearray) -> Any:
        """Decode a request. ``data`` is the body, as text for JSON and CSV.

        Raises BadRequest, UnsupportedMediaType, ValueError.
        """
        kind = request.media_type
        if kind == JSON:
            claims.take(json_cost(request.body))
            return self.of_json(json.loads(data))
        if kind == CSV:
            return self.of_csv(records_of(str(data), request.content_type), csv_cost(request.body))
        if kind == NPY:
            return self.of_array(toolkit.npy_to_numpy(bytes(request.body)))
        return self.of_other(request)

    def of_json(self, value: Any) -> Any:
        array = as_numbers(value)
        if array is not None:
            return self.of_array(array)
        if self.own:
            return value
        raise BadRequest(
            f"the body is {named(value)}; a model without input_fn and predict_fn takes an array of numbers"
        )

    def of_csv(self, text: str, cost: int) -> Any:
        """Decode CSV. ``cost`` is the bytes that it takes on its way to an array."""
        return toolkit.to_tensor(text, CSV, self.device)

    def of_array(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(array).to(self.device)

    def of_other(self, request: Request) -> Any:
        """Decode any other type as the server does."""
        value = codecs.decode(request.body, request.content_type)
        if not hasattr(value, "dtype"):
            return value
        import torch

        return torch.tensor(value).to(self.device)

    def predict(self, data: Any, model: Any) -> Any:
        import torch

        with torch.no_grad():
            return model(data.to(self.device) if hasattr(data, "to") else data)

    def output(self, prediction: Any, accept: str) -> Response:
        """Encode byte for byte as the container does; types it lacks are encoded as the server does."""
        try:
            body = self.encoded(prediction, accept)
        except (UnsupportedFormatError, TypeError, ValueError):
            return codecs.encode(prediction, accept)
        return Response(body.encode() if isinstance(body, str) else body, accept)

    def encoded(self, prediction: Any, accept: str) -> Any:
        return toolkit.DefaultPytorchInferenceHandler().default_output_fn(prediction, accept)


class EstimatorDefaults(Defaults):
    """The scikit-learn container's: numpy arrays with one row for each record, also for a single one."""

    def of_json(self, value: Any) -> Any:
        texts = isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
        return value if texts else super().of_json(value)

    def of_csv(self, text: str, cost: int) -> Any:
        claims.take(cost)
        rows = sagemaker_containers.rows_of(text)
        if not rows:
            raise BadRequest("the CSV has no rows")
        array: NDArray[Any] = float32(sagemaker_containers.texts_of(rows).astype(np.float64))
        return array

    def of_array(self, array: NDArray[Any]) -> Any:
        return array.reshape(1, -1) if array.ndim == 1 else array

    def of_other(self, request: Request) -> Any:
        return codecs.decode(request.body, request.content_type)

    def predict(self, data: Any, model: Any) -> Any:
        return model.predict(data)

    def encoded(self, prediction: Any, accept: str) -> Any:
        return sagemaker_containers.encode(prediction, accept)


class BoosterDefaults(EstimatorDefaults):
    """The XGBoost container's: XGBoost's matrices."""

    def of_json(self, value: Any) -> Any:
        return Defaults.of_json(self, value)

    def of_csv(self, text: str, cost: int) -> Any:
        claims.take(cost)
        return sagemaker_xgboost.csv_to_dmatrix(text)

    def of_array(self, array: NDArray[Any]) -> Any:
        return sagemaker_xgboost.matrix(array)

    def of_other(self, request: Request) -> Any:
        try:
            return sagemaker_xgboost.decode(bytes(request.body), request.content_type)
        except UnsupportedFormatError as exc:
            raise UnsupportedMediaType(str(exc)) from exc

    def predict(self, data: Any, model: Any) -> Any:
        return model.predict(data, validate_features=False)


class PipelineDefaults(Defaults):
    """The Hugging Face container's: JSON unchanged, split into ``inputs`` and ``parameters``."""

    def of_json(self, value: Any) -> Any:
        return value

    def predict(self, data: Any, model: Any) -> Any:
        import torch

        inputs, parameters = data, None
        if isinstance(data, dict):
            rest = dict(data)
            inputs, parameters = rest.pop("inputs", rest), rest.pop("parameters", None)
        with torch.no_grad():
            return model(inputs) if parameters is None else model(inputs, **parameters)


def defaults_of(model: Any, device: str, own: bool) -> Defaults:
    """Return the defaults of a model's container; ``own``: the script has a ``predict_fn`` or ``batch_predict_fn``."""
    classes = {(base.__module__.partition(".")[0], base.__name__) for base in type(model).__mro__}
    if ("xgboost", "Booster") in classes:
        return BoosterDefaults(device, own)
    if ("transformers", "Pipeline") in classes:
        return PipelineDefaults(device, own)
    if not callable(model) and callable(getattr(model, "predict", None)):
        return EstimatorDefaults(device, own)
    return Defaults(device, own)


def records_of(text: str, content_type: str) -> str:
    """Return CSV without the header that its content type declares. Raises BadRequest."""
    if ";" not in content_type or codecs.header_of(content_type) != "present":
        return text
    for _, written, _ in codecs.split_rows(text):
        return text[text.find(written) + len(written) :].lstrip("\r\n")
    return text


def as_numbers(value: Any) -> NDArray[np.float32] | None:
    """Return a number, or rectangular lists of numbers with null as NaN, as float32; None for anything else.

    Raises OverflowError for an integer beyond float64, BadRequest for a number beyond float32.
    """
    if value is None or toolkit.has_text(value):
        return None
    try:
        array = np.array(value)
    except ValueError:  # lists of different lengths, or too many inside each other
        return None
    kind = array.dtype.kind
    numbers = kind in "biuf" or (
        kind == "O" and array.ndim > 0 and all(one is None or isinstance(one, int | float) for one in array.flat)
    )
    return float32(array.astype(np.float64)) if numbers else None


def named(value: Any) -> str:
    """Return JSON's name for a value."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array of other things than numbers, or of unequal rows"
    return "null" if value is None else "a text"
