"""A detector of red, green and blue things in a picture, as a model folder. Nothing is trained.

    python examples/blobs/make.py --out /tmp/blobs && serving serve --model-dir /tmp/blobs

It takes and gives what torchvision's detectors do: pictures of any sizes, boxes, labels from 1 on, scores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
NAMES = {1: "red", 2: "green", 3: "blue"}  # 0 is the background


class Blobs(nn.Module):
    """For each colour the box around its clear pixels, and the share of the box that they fill as the score."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = []
        for image in images:
            boxes: list[Tensor] = []
            scores: list[Tensor] = []
            labels: list[int] = []
            for channel in range(3):
                others = image.sum(0) - image[channel]
                clear = (image[channel] > 0.6) & (others < 0.6)
                places = clear.nonzero()
                if len(places) > 0:
                    low, high = places.amin(0), places.amax(0) + 1
                    boxes.append(torch.stack([low[1], low[0], high[1], high[0]]).float())
                    scores.append(len(places) / (high - low).prod())
                    labels.append(channel + 1)
            none = torch.zeros(0, 4, device=image.device)
            found.append(
                {
                    "boxes": torch.stack(boxes) if len(boxes) > 0 else none,
                    "labels": torch.tensor(labels, dtype=torch.int64, device=image.device),
                    "scores": torch.stack(scores) if len(scores) > 0 else none[:, 0],
                }
            )
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # torch.export has no lists of pictures of any sizes.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Blobs().eval()), str(out / "model.pt"))
    (out / "index_to_name.json").write_text(json.dumps(NAMES))
    shutil.copy(HERE / "serving.toml", out)


if __name__ == "__main__":
    main()
