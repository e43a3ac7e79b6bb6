"""``serving init``: a model folder to start from: handler, settings, a sample, a test and a Dockerfile."""

from __future__ import annotations

from pathlib import Path

from serving.errors import ModelError

HANDLER = '''"""What this model takes and gives, in one line."""

from pathlib import Path

import torch
from torch import Tensor

from serving import BadRequest, BatchPolicy, Handler, Request


class Model(Handler):
    policy = BatchPolicy(max_size=32)

    def load(self, model_dir: Path, device: str) -> None:
        """Called once. Load the weights from ``model_dir`` to ``device``."""
        self.device = device
        self.scale = torch.tensor(2.0, device=device)

    def decode(self, request: Request) -> Tensor:
        """One request to one sample."""
        values = super().decode(request)
        if getattr(values, "ndim", 0) != 1:
            raise BadRequest("a list of numbers is expected")
        return torch.tensor(values, dtype=torch.float32)

    def predict(self, batch: Tensor) -> Tensor:
        """Samples of equal shape, stacked: [n, …] to [n, …]."""
        return batch * self.scale
'''
TOML = """handler = "handler:Model"
timeout_s = 60

[batch]
max_size = 32
"""
TEST = '''"""Run with pytest, from the folder above."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "code"))

from handler import Model  # noqa: E402

from serving.testing import Client  # noqa: E402


def test_the_sample_is_answered() -> None:
    with Client(Model, ROOT) as client:
        answer = client.invoke((ROOT / "sample.json").read_bytes(), "application/json")
        assert json.loads(bytes(answer.body)) == [2.0, 4.0, 6.0]
'''
DOCKERFILE = """# Entry point, labels and health check are those of the server's own image, which Dockerfile.cpu or
# Dockerfile.gpu of its sources makes. On the platform the model comes from S3 and the COPY line is not needed.
ARG SERVING=serving:cpu
FROM ${SERVING}
COPY . /opt/ml/model
"""
FILES = {
    "serving.toml": TOML,
    "code/handler.py": HANDLER,
    "sample.json": "[1, 2, 3]\n",
    "tests/test_handler.py": TEST,
    "Dockerfile": DOCKERFILE,
}


def init(folder: Path) -> list[str]:
    """Write the files; gives their names. Raises ModelError where one is there already, and then writes none."""
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise ModelError(f"{folder} has {', '.join(there)} already; nothing was written")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(FILES)
