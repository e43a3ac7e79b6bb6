"""GPUs without CUDA: which there are, what is free on them, who holds it, and which of them are broken."""

from __future__ import annotations

import importlib
import os

from serving.gpus.driver import Driver, NoGpus
from serving.gpus.nodes import Nodes
from serving.gpus.nvml import Nvml

VISIBLE = "CUDA_VISIBLE_DEVICES"


def find() -> Driver:
    """The best border that there is here: NVML with the ``gpu`` extra, else the device nodes, else none at all."""
    visible = os.environ.get(VISIBLE)
    try:
        api = importlib.import_module("pynvml")
        return Nvml(api, visible)
    except (ImportError, OSError):
        nodes = Nodes(visible)
        return nodes if nodes.gpus() else NoGpus()
