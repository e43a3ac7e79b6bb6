"""Names of models: what a client writes in TargetModel, and how the model is called from then on."""

from __future__ import annotations

import re

from serving.config.parsers import MODEL_NAME
from serving.errors import BadRequest

ARCHIVES = (".tar.gz", ".tgz", ".mar", ".zip")
# Files that macOS and Windows leave behind, in lower case.
LEFTOVERS = frozenset(
    {
        *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "system volume information"),
    }
)
TARGET_MODEL = "X-Amzn-SageMaker-Target-Model"
_NAME = re.compile(MODEL_NAME)


def target_name(target: str) -> str:
    """Return a valid TargetModel such as ``team/a`` or ``team/a.tar.gz``; the model store resolves it.

    Raises BadRequest.
    """
    if not _NAME.fullmatch(target):
        raise BadRequest(
            f"{TARGET_MODEL} is {target[:100]!r}; allowed: parts of letters, digits and _ . @ + = ~ - that begin with "
            "a letter, a digit or _, joined by slashes, at most 255 characters"
        )
    return target


def model_name(name: str) -> str:
    """Return a valid name from the platform's calls, unchanged. Raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(f"model_name is {name[:100]!r}; allowed: what {TARGET_MODEL} takes")
    return name


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is no part of a model: hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def without_suffix(name: str) -> str:
    """Return a name without its archive suffix, if any; of two only the last is removed."""
    for suffix in ARCHIVES:
        if name.endswith(suffix) and len(name) > len(suffix) and not name.endswith(f"/{suffix}"):
            return name.removesuffix(suffix)
    return name
