"""The paths of the Open Inference Protocol (KServe v2), and how a message with binary tensors is labelled."""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "/v2"
STATISTICS = f"{PREFIX}/models/stats"  # of all models
UNKNOWN = "Request for unknown model:"  # the beginning of what Triton's server says, which its clients compare
BINARY = "application/vnd.sagemaker-triton.binary+json"
HEADER_SIZE = "json-header-size"  # its parameter: bytes of the JSON header in front of the tensors
# A model's name may have slashes, so that what comes last decides.
_MODEL = re.compile(
    r"/v2/models/(?P<model>.+?)(?:/versions/(?P<version>[^/]+))?"
    r"(?:/(?P<verb>config|ready|infer|stats|generate|generate_stream|trace/setting))?"
)
_REPOSITORY = re.compile(r"/v2/repository/models/(?P<model>.+)/(?P<verb>load|unload)")


class ModelPath(NamedTuple):
    """What a path is about, once its percent signs are decoded. ``verb`` is empty for a model's metadata, ``version``
    where the path names none."""

    model: str
    version: str
    verb: str


def model_path(path: str) -> ModelPath | None:
    """``/v2/models/{model}[/versions/{version}][/{verb}]``."""
    match = _MODEL.fullmatch(path)
    if match is None:
        return None
    return ModelPath(match["model"], match["version"] or "", match["verb"] or "")


def repository_path(path: str) -> ModelPath | None:
    """``/v2/repository/models/{model}/load`` or ``unload``."""
    match = _REPOSITORY.fullmatch(path)
    return None if match is None else ModelPath(match["model"], "", match["verb"])


def is_open_inference(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def binary_type(header_size: int) -> str:
    return f"{BINARY};{HEADER_SIZE}={header_size}"
