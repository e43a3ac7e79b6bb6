"""Train a small classifier of irises and lay it out as a model folder.

    python examples/flowers/train.py --out /tmp/flowers && serving serve --model-dir /tmp/flowers

The data are scikit-learn's bundled 150 flowers: four lengths in cm, three species.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

HERE = Path(__file__).resolve().parent
STEPS = 300


class Net(nn.Module):
    """[n, 4] lengths to [n, 3] logits; it scales its input by itself, so that the server need not know how."""

    def __init__(self, data: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", data.mean(0))
        self.register_buffer("std", data.std(0))
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - self.mean) / self.std)


def train() -> tuple[Net, list[str]]:
    flowers = load_iris()
    data, species = torch.tensor(flowers.data, dtype=torch.float32), torch.tensor(flowers.target)
    torch.manual_seed(0)
    net = Net(data)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net(data), species))
        optimizer.step()
    return net.eval(), list(flowers.target_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    net, names = train()
    shapes = ({0: torch.export.Dim("rows", min=1, max=1 << 20)},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=shapes), out / "model.pt2")
    (out / "labels.txt").write_text("\n".join(names))
    shutil.copy(HERE / "serving.toml", out)


if __name__ == "__main__":
    main()
