"""The handler for this server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import workload

from serving import BatchPolicy, Handler, Request, Response

BYTES = "application/octet-stream"


class Numbers(Handler):
    policy = BatchPolicy(max_size=workload.MAX_BATCH)

    def load(self, model_dir: Path, device: str, name: str = "tiny") -> None:
        self.model, self.shape = workload.build(name), workload.SHAPES[name]

    def decode(self, request: Request) -> Any:
        return self.shape.read(request.body)

    def bucket(self, sample: Any) -> int:
        return 0

    def collate(self, samples: Any) -> Any:
        return torch.from_numpy(np.stack(samples))

    def predict(self, batch: Any) -> Any:
        return self.model(batch).numpy()

    def encode(self, output: Any, request: Request) -> Response:
        return Response(output.tobytes(), BYTES)
