"""GPUs without CUDA: which there are, what is free on them, who holds it, and which of them are broken."""

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
    """The best border that there is here: NVML with the ``gpu`` extra, else the device nodes, else none at all.

    GPUs that no model could use, since this torch was built without CUDA, are none.
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
    """Whether torch was built with CUDA, by its ``version.py``; what cannot be read is taken for a yes."""
    try:
        return re.search(r"^cuda\b[^=]*= *None", version.read_text(), re.MULTILINE) is None
    except OSError:
        return True
