"""torchvision beside a torch without CUDA: its released wheels find no library for their operators and then fail over
the names of two of them, which the transforms of images never call. Python reads this file by its name at the start."""

from __future__ import annotations

import sys
from typing import Any

NAMES = ("nms", "qnms")


class Names:
    """Makes the names when torchvision is first imported, and only then imports torch."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        if torch.version.cuda is None:
            self.library = torch.library.Library("torchvision", "DEF")
            for one in NAMES:
                self.library.define(f"{one}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            kept.append(self)


kept: list[Names] = []
sys.meta_path.insert(0, Names())
