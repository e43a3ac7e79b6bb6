"""Names of models: what a client writes in TargetModel, and what the model is called from there on."""

from __future__ import annotations

import re

from serving.errors import BadRequest
from serving.kinds import MODEL_NAME

ARCHIVES = (".tar.gz", ".tgz", ".mar", ".zip")
TARGET_MODEL = "X-Amzn-SageMaker-Target-Model"
_NAME = re.compile(MODEL_NAME)


def target_name(target: str) -> str:
    """The model that a TargetModel such as ``team/a.tar.gz`` means: ``team/a``. Raises BadRequest."""
    if not _NAME.fullmatch(target):
        raise BadRequest(
            f"{TARGET_MODEL} is {target[:100]!r}; allowed: parts of letters, digits and _ . @ + = ~ - that begin with "
            "a letter, a digit or _, joined by slashes, at most 255 characters"
        )
    return without_suffix(target)


def model_name(name: str) -> str:
    """A name as the platform makes them for its calls, kept as it is. Raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(f"model_name is {name[:100]!r}; allowed: what {TARGET_MODEL} takes")
    return name


def without_suffix(name: str) -> str:
    for suffix in ARCHIVES:
        if name.endswith(suffix) and len(name) > len(suffix) and not name.endswith(f"/{suffix}"):
            return name.removesuffix(suffix)
    return name
