"""ImageClassificationHandler: a picture to its best labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handlers.built import BuiltHandler
from handlers.images import open_image
from handlers.labels import probabilities, read_labels
from handlers.options import need, one_of, overridable, whole
from handlers.parameters import top_k_of
from serving import BatchPolicy, Request
from serving.errors import ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # red, green and blue of 0 … 1, as in torchvision's training
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageClassificationHandler(BuiltHandler):
    """A handler of pictures: ``image/*``, ``application/x-image`` or npy.

    The answer is ``[{"label", "score"}, …]``, best first. The module maps float32 [n, 3, size, size] to [n, classes].
    """

    policy = BatchPolicy(max_size=32)
    decode_threads = 2

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        file: str | None = None,
        allow_pickle: bool = False,
        size: int = 224,
        resize: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        topk: int = 5,
        outputs: str = "logits",
        labels: str | None = None,
    ) -> None:
        """Load the model. The shorter side is scaled to ``resize`` pixels, by default 8/7 of ``size``.

        The module gets the middle ``size`` x ``size`` of that, minus ``mean`` and divided by ``std``. ``outputs`` are
        ``logits``, ``probabilities`` or, for labels that do not exclude each other, ``independent``. Raises ModelError.
        """
        self.device = device
        need("PIL.Image", "images")
        self.module, static = self.load_module(model_dir, device, file, allow_pickle)
        if static is not None:
            self.policy = replace(self.policy, max_size=only_one(static))
        self.size = whole("size", size, 1, 8192)
        self.resize = whole("resize", (size * 8 + 6) // 7 if resize is None else resize, size, 16384)
        self.mean, self.std = (channels(*pair).to(device) for pair in (("mean", mean), ("std", std)))
        self.topk = whole("topk", topk, 1, 1000)
        self.outputs = one_of("outputs", outputs, "logits", "probabilities", "independent")
        self.labels = read_labels(model_dir, labels)

    def decode(self, request: Request) -> Tensor:
        """Return uint8 [3, size, size], a quarter of the memory of floats until the batch is on the device."""
        top_k_of(request, self.topk, self.topk)  # so that an invalid one is refused here
        image = self.crop(open_image(request, at_least=2 * self.resize))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def crop(self, image: Any) -> Any:
        """Return the part of a Pillow image that the module sees, [size, size]."""
        scale = min(image.size) / self.resize  # pixels of the image a pixel of the result
        side = self.size * scale
        left, top = (image.width - side) / 2, (image.height - side) / 2
        bilinear = need("PIL.Image", "images").Resampling.BILINEAR
        # Crop and resize in one step, so that nothing is computed outside of the crop.
        box = (left, top, min(left + side, image.width), min(top + side, image.height))
        return image.resize((self.size, self.size), bilinear, box=box)

    def collate(self, samples: Sequence[Tensor]) -> Tensor:
        return self.normalize(super().collate(samples))

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 [n, 3, size, size] to float32."""
        return (images.float() / 255 - self.mean) / self.std

    def predict(self, batch: Tensor) -> Any:
        """Return scores and classes of the best, [n, topk] each."""
        scores = probabilities(self.module(batch).float(), self.outputs)
        best = scores.topk(min(self.topk, scores.shape[1]))
        return best.values, best.indices

    def encode(self, output: Any, request: Request) -> Any:
        best = top_k_of(request, self.topk, self.topk)
        return self.labels.scored(*(one[:best] for one in output))

    def warmup(self) -> None:
        empty = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
        for size in {1, self.policy.max_size}:
            self.predict(self.collate([empty] * size))


def only_one(static: int) -> int:
    """Return the fixed batch size of an exported module. Raises ModelError for a size other than 1."""
    if static != 1:
        raise ModelError(
            f"the model was exported for batches of exactly {static}; export it with a free batch dimension"
        )
    return static


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def channels(name: str, values: Any) -> Tensor:
    """Return [3, 1, 1]. Raises ModelError unless there are three valid numbers."""
    numbers = [one for one in values if is_finite(one)] if isinstance(values, list | tuple) else []
    if not len(numbers) == len(values if numbers else ()) == 3 or (name == "std" and min(numbers) <= 0):
        raise ModelError(f"[options] {name} is {values!r}; allowed: three numbers, for red, green and blue")
    return torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
