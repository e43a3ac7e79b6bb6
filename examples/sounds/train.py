"""Train a tiny model in seconds that tells tones, noise, clicks and silence apart, and lay it out as a model folder.

    python examples/sounds/train.py --out /tmp/sounds && serving serve --model-dir /tmp/sounds

Nothing is downloaded: the sounds are made here.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

HERE = Path(__file__).resolve().parent
NAMES = ("silence", "tone", "noise", "clicks")
RATE, SAMPLES = 8000, 4000  # as in serving.toml
STEPS = 200


class Net(nn.Module):
    """[n, 4000] samples to [n, 4] logits, by how much sound there is at which pitch and how that changes."""

    def __init__(self) -> None:
        super().__init__()
        at = torch.arange(128)[:, None] * torch.arange(64)[None] * (2 * math.pi / 128)
        window = torch.hann_window(128)[:, None]
        waves = torch.cat([at.cos() * window, at.sin() * window], 1).T[:, None].contiguous()
        self.register_buffer("waves", waves)
        self.layers = nn.Sequential(nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, len(NAMES)))

    def forward(self, samples: Tensor) -> Tensor:
        pairs = nn.functional.conv1d(samples[:, None], self.waves, stride=64)
        energy = (pairs[:, :64].square() + pairs[:, 64:].square() + 1e-3).log() / 4  # below that is what recorders add
        return self.layers(torch.cat([energy.mean(2), energy.amax(2), energy.amin(2)], 1))


def make_sound(kind: int) -> Tensor:
    time = torch.arange(SAMPLES) / RATE
    loudness = float(torch.empty(1).uniform_(0.2, 0.9))
    if NAMES[kind] == "tone":
        sound = (2 * math.pi * float(torch.empty(1).uniform_(150, 3500)) * time).sin()
    elif NAMES[kind] == "noise":
        sound = torch.randn(SAMPLES) / 3
    elif NAMES[kind] == "clicks":
        sound = (torch.rand(SAMPLES) < 0.002).float()
    else:
        sound = torch.zeros(SAMPLES)
    # Some recorders have a noise of their own, others are perfectly still.
    return loudness * sound + torch.randn(SAMPLES) * 0.002 * int(torch.randint(2, ()))


def train() -> Net:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(STEPS):
        kinds = torch.randint(len(NAMES), (32,))
        sounds = torch.stack([make_sound(kind) for kind in kinds.tolist()])
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net(sounds), kinds))
        optimizer.step()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    shapes = ({0: torch.export.Dim("windows", min=1, max=1024)},)
    program = torch.export.export(train(), (torch.zeros(2, SAMPLES),), dynamic_shapes=shapes)
    torch.export.save(program, out / "model.pt2")
    (out / "labels.txt").write_text("\n".join(NAMES))
    shutil.copy(HERE / "serving.toml", out)


if __name__ == "__main__":
    main()
