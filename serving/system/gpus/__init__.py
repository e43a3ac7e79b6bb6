"""GPUs without CUDA: which there are, how much memory is free, which processes hold it, and which GPUs are broken."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from serving.system.gpus.driver import Driver, NoGpus
from serving.system.gpus.nodes import Nodes
from serving.system.gpus.nvml import Nvml

VISIBLE = "CUDA_VISIBLE_DEVICES"


def find() -> Driver:
    """Return the best driver available: NVML with the ``gpu`` extra, otherwise the device nodes, otherwise none.

    If this torch was built without CUDA no model could use a GPU, so there are none.
    """
    spec = importlib.util.find_spec("torch")  # which does not import it
    if spec is not None and spec.origin is not None and not has_cuda(Path(spec.origin).with_name("version.py")):
        return NoGpus()
    visible = os.environ.get(VISIBLE)
    try:
        api = importlib.import_module("pynvml")
        return Nvml(api, visible)
    except (ImportError, OSError):
        nodes = Nodes(visible)
        return nodes if nodes.gpus() else NoGpus()


def has_cuda(version: Path) -> bool:
    """Return whether torch was built with CUDA, by its ``version.py``; True if that cannot be read."""
    try:
        return re.search(r"^cuda\b[^=]*= *None", version.read_text(), re.MULTILINE) is None
    except OSError:
        return True
