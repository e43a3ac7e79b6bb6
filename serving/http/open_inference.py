"""The paths of the Open Inference Protocol (KServe v2), and the content type of messages with binary tensors."""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "/v2"
STATISTICS = f"{PREFIX}/models/stats"  # of all models
UNKNOWN = "Request for unknown model:"  # the beginning of Triton's message, which its clients compare
BINARY = "application/vnd.sagemaker-triton.binary+json"
HEADER_SIZE = "json-header-size"  # its parameter: bytes of the JSON header in front of the tensors
# A model's name may have slashes, so the last parts of the path decide.
_MODEL = re.compile(
    r"/v2/models/(?P<model>.+?)(?:/versions/(?P<version>[^/]+))?"
    r"(?:/(?P<verb>config|ready|infer|stats|generate|generate_stream|trace/setting))?"
)
_REPOSITORY = re.compile(r"/v2/repository/models/(?P<model>.+)/(?P<verb>load|unload)")


class ModelPath(NamedTuple):
    """The parts of a path, percent signs decoded. ``verb`` is empty for a model's metadata, ``version`` where the path
    has none.
    """

    model: str
    version: str
    verb: str


def model_path(path: str) -> ModelPath | None:
    """Parse ``/v2/models/{model}[/versions/{version}][/{verb}]``; returns None for another path."""
    match = _MODEL.fullmatch(path)
    if match is None:
        return None
    return ModelPath(match["model"], match["version"] or "", match["verb"] or "")


def repository_path(path: str) -> ModelPath | None:
    """Parse ``/v2/repository/models/{model}/load`` or ``unload``; returns None for another path."""
    match = _REPOSITORY.fullmatch(path)
    return None if match is None else ModelPath(match["model"], "", match["verb"])


def is_open_inference(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def binary_type(header_size: int) -> str:
    return f"{BINARY};{HEADER_SIZE}={header_size}"
