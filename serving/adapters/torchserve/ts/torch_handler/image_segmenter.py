"""``ts.torch_handler.image_segmenter``: the most likely class of each pixel."""

from __future__ import annotations

from typing import Any

import torch

from serving.adapters.torchserve.images import classified

from .vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    image_processing = staticmethod(classified)

    def postprocess(self, data: Any) -> Any:
        """Return for each image lists [height, width, 2] of class and probability.

        ``data["out"]`` is [n, classes, height, width].
        """
        best = torch.max(torch.nn.functional.softmax(data["out"], dim=1), dim=1)
        return torch.stack([best.indices.type(best.values.dtype), best.values], dim=3).tolist()
