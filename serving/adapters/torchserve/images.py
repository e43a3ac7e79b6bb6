"""Images as tensors, equal to torchvision's transforms of the same names, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, by channel
SCALES = {"I": np.int32, "I;16": np.int16, "F": np.float32}  # modes whose numbers are kept unscaled


def resize(image: Any, shorter: int) -> Any:
    """Return the Pillow image with a shorter side of ``shorter`` pixels, bilinear."""
    from PIL import Image

    width, height = image.size
    scale = min(width, height)
    if scale == shorter:
        return image
    size = (shorter, shorter * height // width) if width < height else (shorter * width // height, shorter)
    return image.resize(size, Image.Resampling.BILINEAR)


def center_crop(image: Any, side: int) -> Any:
    """Return the middle square; a smaller image gets a black border first."""
    from PIL import Image

    width, height = image.size
    if width < side or height < side:
        left, top = max(0, (side - width) // 2), max(0, (side - height) // 2)
        canvas = Image.new(image.mode, (max(width, side), max(height, side)))
        canvas.paste(image, (left, top))
        image, (width, height) = canvas, canvas.size
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def to_tensor(image: Any) -> Tensor:
    """Return float32 [channels, height, width]; bytes are scaled to 0 … 1."""
    array = np.array(image, SCALES.get(image.mode, np.uint8), copy=True)
    if image.mode == "1":
        array = 255 * array
    tensor = torch.from_numpy(array).view(image.size[1], image.size[0], len(image.getbands()))
    tensor = tensor.permute(2, 0, 1).contiguous()
    return tensor.float().div(255) if tensor.dtype is torch.uint8 else tensor


def normalize(tensor: Tensor, mean: Sequence[float] = MEAN, deviation: Sequence[float] = DEVIATION) -> Tensor:
    shape = (-1, 1, 1)
    return tensor.sub(torch.tensor(mean).view(shape)).div(torch.tensor(deviation).view(shape))


def classified(image: Any) -> Tensor:
    """Return float32 [3, 224, 224] as classifiers of ImageNet take it."""
    return normalize(to_tensor(center_crop(resize(image, 256), 224)))
