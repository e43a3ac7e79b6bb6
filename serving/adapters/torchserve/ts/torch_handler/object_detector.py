"""``ts.torch_handler.object_detector``: boxes found by a detector of torchvision's kind."""

from __future__ import annotations

from typing import Any

from serving.adapters.torchserve.images import to_tensor

from ..utils.util import map_class_to_label
from .vision_handler import VisionHandler


class ObjectDetector(VisionHandler):
    image_processing = staticmethod(to_tensor)
    threshold = 0.5

    def postprocess(self, data: Any) -> Any:
        """Return for each image a list of ``{label: box, "score": score}`` with scores of at least ``threshold``."""
        return [self._found(row) for row in data]

    def _found(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        kept = row["scores"] >= self.threshold
        columns = (row[key][kept].tolist() for key in ("labels", "boxes", "scores"))
        return [
            {**map_class_to_label([[box]], self.mapping, [[label]])[0], "score": score}
            for label, box, score in zip(*columns, strict=True)
        ]
