"""``ts.utils.util``: labels, classes of a module, and the exception with a status."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.model.modelfile import unmarked
from serving.system import log

CLEANUP_REGEX = re.compile(r"<[^>]*>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});", re.DOTALL)


class PT2Backend(enum.StrEnum):
    """The backends of ``torch.compile`` that a ``pt2`` section may name."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


class PredictionException(Exception):
    """An error that answers the batch with ``error_code`` and ``message``."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def check_valid_pt2_backend(backend: str) -> bool:
    known = [one.value for one in PT2Backend]
    if backend not in known:
        log.warning("pt2 names an unknown backend; the model is not compiled", backend=backend, allowed=known)
    return backend in known


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Return the classes that the module itself defines, by name; only subclasses of ``parent_class``, if given."""
    own = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
    return [one for one in own if parent_class is None or issubclass(one, parent_class)]


def load_label_mapping(mapping_file_path: str | Path) -> dict[str, str] | None:
    """Read ``index_to_name.json``: index to label, or to a list whose last entry is the label. None without the file.

    Raises ValueError for another structure.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        log.info("there is no such file, so that answers name classes by their numbers", path=str(path))
        return None
    mapping = json.loads(unmarked(path.read_bytes()))
    if not isinstance(mapping, dict):
        raise ValueError(f"{path} holds {type(mapping).__name__}; allowed: an object of indices and labels")
    if isinstance(mapping.get("object_type_names"), list):
        return {str(index): label for index, label in enumerate(mapping["object_type_names"])}
    labels = {index: label[-1] if isinstance(label, list) and label else label for index, label in mapping.items()}
    wrong = [index for index, label in labels.items() if not isinstance(label, str)]
    if wrong:
        raise ValueError(f"{path}: the label of {wrong[0]} is {labels[wrong[0]]!r}; allowed: a text or a list of texts")
    return labels


def map_class_to_label(
    probs: list[list[Any]], mapping: dict[str, str] | None = None, lbl_classes: list[list[Any]] | None = None
) -> list[dict[str, Any]]:
    """Return for each row of ``probs`` a dict from label to number.

    ``lbl_classes`` are the classes of its columns, 0, 1, … by default. Raises TypeError, and KeyError for a class
    without label.
    """
    if not isinstance(probs, list) or not isinstance(mapping, dict | None):
        raise TypeError("probs is a list of lists, mapping a dict or None")
    rows = [list(range(len(row))) for row in probs] if lbl_classes is None else lbl_classes
    return [
        {str(one) if mapping is None else mapping[str(one)]: prob for one, prob in zip(classes, row, strict=False)}
        for classes, row in zip(rows, probs, strict=False)
    ]


def get_yaml_config(yaml_file_path: str | Path) -> Any:
    import yaml

    return yaml.safe_load(Path(yaml_file_path).read_bytes())


def deprecated(
    version: Any, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function to warn at each call."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            message = f"{function.__name__} is deprecated since {version}; use {replacement}"
            warnings.warn(message, klass, stacklevel=2)
            return function(*args, **options)

        return wrapper

    return decorate
