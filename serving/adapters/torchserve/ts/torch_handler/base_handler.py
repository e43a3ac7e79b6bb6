"""``ts.torch_handler.base_handler``: a model loaded from its files, and the steps of a prediction to override."""

from __future__ import annotations

import abc
import time
from pathlib import Path
from typing import Any

import torch

from serving.adapters.torchserve.loading import compiled, load_eager, load_model

from ..handler_utils.timer import timed
from ..utils.util import PredictionException, load_label_mapping


class BaseHandler(abc.ABC):  # noqa: B024  handlers also list ABC, and the base classes must be compatible
    """A handler whose ``handle`` runs ``preprocess``, ``inference`` and ``postprocess`` on a batch.

    Loads what the manifest names: a class in ``modelFile`` with the state dict ``serializedFile``, or by the suffix of
    ``serializedFile`` TorchScript or a ``torch.export`` ``.pt2``.
    """

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: Any = None
        self.initialized: Any = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: Any = None
        self.map_location: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self.explain = False
        self.target: Any = 0
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Any) -> None:
        """Load the model. Raises ModelError for files that can never be loaded."""
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        self.manifest = context.manifest
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        on_gpu = torch.cuda.is_available() and gpu is not None
        self.map_location = "cuda" if on_gpu else "cpu"
        self.device = torch.device(f"cuda:{gpu}" if on_gpu else "cpu")
        self._allow_pickle = getattr(context, "allow_pickle", False)
        self._load(Path(properties["model_dir"]))
        self.model = compiled(self.model, self.model_yaml_config.get("pt2"))
        self.mapping = load_label_mapping(Path(properties["model_dir"]) / "index_to_name.json")
        self.initialized = True

    def _load(self, folder: Path) -> None:
        model_entry = self.manifest["model"]
        if model_entry.get("serializedFile"):
            self.model_pt_path = str(folder / model_entry["serializedFile"])
        if model_entry.get("modelFile"):
            self.model = self._load_pickled_model(str(folder), model_entry["modelFile"], self.model_pt_path)
            self.model.to(self.device)
            self.model.eval()
        elif self.model_pt_path is not None and Path(self.model_pt_path).suffix in (".pt", ".pth"):
            self.model = self._load_torchscript_model(self.model_pt_path)
            self.model.eval()
        else:
            path = None if self.model_pt_path is None else Path(self.model_pt_path)
            self.model = load_model(path, str(self.device), self._allow_pickle)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return load_model(Path(model_pt_path), str(self.device), False)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        weights = None if model_pt_path is None else Path(model_pt_path)
        return load_eager(Path(model_dir) / model_file, weights, str(self.device), self._allow_pickle)

    @timed
    def preprocess(self, data: Any) -> Any:
        """Return the batch as one tensor."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """Return a list with one answer for each request."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        started = time.perf_counter()
        self.context = context
        if self._is_describe():
            output = [self.describe_handle()]
        else:
            inputs = self.preprocess(data)
            output = self.explain_handle(inputs, data) if self._is_explain() else self._predict(inputs)
        context.metrics.add_time("HandlerTime", round(1000 * (time.perf_counter() - started), 2), None, "ms")
        return output

    def _predict(self, inputs: Any) -> Any:
        return self.postprocess(self.inference(inputs))

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Return the handler's ``get_insights``. Raises PredictionException where it has none."""
        row = raw_data[0]
        fields = row if isinstance(row, dict) else {}
        inputs, target = fields.get("data") or fields.get("body"), fields.get("target") or 0
        return self.get_insights(data_preprocess, inputs, target)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        raise PredictionException(f"{type(self).__name__} explains nothing: it defines no get_insights", 501)

    def describe_handle(self) -> Any:
        raise PredictionException(f"{type(self).__name__} describes nothing: it defines no describe_handle", 501)

    def _is_explain(self) -> bool:
        self.explain = bool(self.context) and self.context.get_request_header(0, "explain") == "True"
        return self.explain

    def _is_describe(self) -> bool:
        return bool(self.context) and self.context.get_request_header(0, "describe") == "True"

    def get_device(self) -> Any:
        return self.device
