"""Handwritten digits: an image of any size, light ink on dark, or an 8x8 JSON array of 0 … 16, to the digit shown."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from serving import BadRequest, BatchPolicy, Handler, Request, load_weights

GREY = torch.tensor([0.299, 0.587, 0.114])  # how bright red, green and blue look, ITU-R BT.601


class Net(nn.Sequential):
    """[n, 1, 8, 8] brightness 0 … 1 to [n, 10] logits."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 4 * 4, 10)),
        )


class Digits(Handler):
    policy = BatchPolicy(max_size=32)

    def load(self, model_dir: Path, device: str) -> None:
        self.device = device
        self.net = Net().to(device).eval()
        self.net.load_state_dict(load_weights(model_dir / "weights.pt", device), assign=True)

    def decode(self, request: Request) -> Tensor:
        pixels = torch.tensor(super().decode(request), dtype=torch.float32)
        if request.media_type.startswith("image/"):
            grey = pixels if pixels.ndim == 2 else pixels[..., :3] @ GREY
            return interpolate(grey[None, None] / 255, (8, 8), mode="area")[0]
        if pixels.shape != (8, 8):
            raise BadRequest(f"expected an 8x8 array, got {list(pixels.shape)}")
        return pixels[None] / 16

    def predict(self, batch: Tensor) -> Tensor:
        return torch.softmax(self.net(batch), -1)

    def encode(self, output: Tensor, request: Request) -> dict[str, Any]:
        return {"class": int(output.argmax()), "probabilities": [round(p, 4) for p in output.tolist()]}

    def warmup(self) -> None:
        self.predict(torch.zeros(self.policy.max_size, 1, 8, 8, device=self.device))
