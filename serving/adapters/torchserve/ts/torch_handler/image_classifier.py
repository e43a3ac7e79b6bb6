"""``ts.torch_handler.image_classifier``: the most likely classes of images, by models of ImageNet's kind."""

from __future__ import annotations

from typing import Any

import torch

from serving.adapters.torchserve.images import classified

from ..handler_utils.timer import timed
from ..utils.util import map_class_to_label
from .vision_handler import VisionHandler


class ImageClassifier(VisionHandler):
    topk = 5
    image_processing = staticmethod(classified)

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: Any) -> Any:
        """Return for each image a dict of its ``topk`` labels and probabilities, most likely first."""
        top, classes = torch.topk(torch.nn.functional.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(top.tolist(), self.mapping, classes.tolist())
