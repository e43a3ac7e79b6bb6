"""``serving init``: a new model folder with handler, settings, a sample, a test, a Dockerfile and a README."""

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

from pathlib import Path

from serving.testing import Client

ROOT = Path(__file__).parent.parent


def test_the_sample_is_answered() -> None:
    with Client.of(ROOT) as client:  # as `serving serve` would run it
        answer = client.invoke((ROOT / "sample.json").read_bytes(), "application/json")
        assert answer.json() == [2.0, 4.0, 6.0]
'''
DOCKERFILE = """# Entry point, labels and health check are those of the server's own image, which Dockerfile.cpu or
# Dockerfile.gpu of its sources makes. On the platform the model comes from S3 and the COPY line is not needed.
ARG SERVING=serving:cpu
FROM ${SERVING}
COPY . /opt/ml/model
"""
DOCKERIGNORE = """# Secrets, environments and what only a desk needs stay out of the image.
.env
.env.*
.venv
venv
.git
tests
**/__pycache__
**/.*_cache
Dockerfile
.dockerignore
"""
README = """# A model

`code/handler.py` is the model, `serving.toml` its settings, `sample.json` a request to try it with.

    pytest                                    # tests/, without a server
    serving check .                           # loads it, asks it its samples, says what is risky
    serving serve --model-dir . --local       # says when it is ready, and how to call it
    curl -H 'Content-Type: application/json' --data-binary @sample.json localhost:8080/invocations
    serving pack .                            # model.tar.gz, without tests and secrets
    docker build -t mine .                    # or an image with the model in it
"""
FILES = {
    "serving.toml": TOML,
    "code/handler.py": HANDLER,
    "sample.json": "[1, 2, 3]\n",
    "tests/test_handler.py": TEST,
    "Dockerfile": DOCKERFILE,
    ".dockerignore": DOCKERIGNORE,
    "README.md": README,
}


def init(folder: Path) -> list[str]:
    """Write the files and return their names. Raises ModelError, and writes none, where one exists."""
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise ModelError(f"{folder} has {', '.join(there)} already; nothing was written")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(FILES)
