"""A picture to the names of its colours, as a model folder. Nothing is trained: the weights are a palette.

python examples/colors/make.py --out /tmp/colors && serving serve --model-dir /tmp/colors
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
PALETTE = {
    "black": (0, 0, 0),
    "white": (1, 1, 1),
    "grey": (0.5, 0.5, 0.5),
    "red": (0.9, 0.1, 0.1),
    "orange": (1, 0.55, 0.1),
    "yellow": (1, 0.95, 0.2),
    "green": (0.1, 0.6, 0.15),
    "blue": (0.15, 0.3, 0.85),
    "purple": (0.5, 0.15, 0.6),
    "brown": (0.45, 0.27, 0.1),
}
SHARPNESS = 40.0  # how much nearer the nearest colour counts


class Colors(nn.Module):
    """[n, 3, height, width] of 0 … 1 to [n, colours], the share of each in the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("palette", torch.tensor(list(PALETTE.values())))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(2).transpose(1, 2)
        distance = (pixels[:, :, None] - self.palette).square().sum(-1)
        return (-SHARPNESS * distance).softmax(-1).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    shapes = ({0: torch.export.Dim("pictures", min=1, max=1024)},)
    program = torch.export.export(Colors().eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=shapes)
    torch.export.save(program, out / "model.pt2")
    (out / "index_to_name.json").write_text(json.dumps(dict(enumerate(PALETTE))))
    shutil.copy(HERE / "serving.toml", out)


if __name__ == "__main__":
    main()
