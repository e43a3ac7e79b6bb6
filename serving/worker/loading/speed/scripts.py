"""Scripts: warm-up of TorchScript on a GPU, which compiles kernels in the first calls of each size."""

from __future__ import annotations

from pathlib import Path

import torch

from serving.handler import Handler
from serving.model.samples import requests_of
from serving.system import log
from serving.worker.loading.speed.wrapped import Wrapped

CALLS = 3  # of one size: TorchScript profiles, compiles, then runs the kernels


def warm_script(handler: Handler, folder: Path, device: str) -> None:
    """Run the samples beside the model in batches of 1, of 2, which stands for all sizes, and of the largest.

    A sample that fails is only logged.
    """
    module = getattr(handler, "module", None) or getattr(handler, "model", None)
    if isinstance(module, Wrapped):
        module = module._module
    if not device.startswith("cuda") or not isinstance(module, torch.jit.ScriptModule):
        return
    for request in requests_of(folder):
        try:
            for size in sorted({1, min(2, handler.policy.max_size), handler.policy.max_size}):
                for _ in range(CALLS):
                    handler.predict(handler.collate([handler.decode(request) for _ in range(size)]))
        except Exception as exc:
            log.warning("a sample fails and warms nothing", sample=request.request_id, error=f"{exc}"[:200])
