"""ObjectDetectionHandler: a picture to the objects in it, each with label, score and box."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handlers.built import BuiltHandler
from handlers.image_classification import only_one
from handlers.images import open_image
from handlers.labels import read_labels
from handlers.options import need, one_of, overridable, whole, within
from handlers.parameters import refuse_parameters
from serving import BatchPolicy, HandlerError, Request

FIELDS = ("boxes", "labels", "scores")


class Picture(NamedTuple):
    """uint8 [3, height, width], and the client's pixels for each of its pixels, horizontally and vertically."""

    pixels: Tensor
    scale: tuple[float, float]  # horizontally, vertically

    @property
    def shape(self) -> torch.Size:
        return self.pixels.shape


class Found(NamedTuple):
    """Boxes [n, 4] as left, top, right, bottom in the client's pixels; classes and scores [n]."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class ObjectDetectionHandler(BuiltHandler):
    """A handler of pictures: ``image/*``, ``application/x-image`` or npy.

    The answer is ``[{"label", "score", "box": [left, top, right, bottom]}, …]``, best first, in pixels of the picture
    as sent.

    The module returns what torchvision's detectors return: for each picture a dict of boxes [k, 4], labels [k] and
    scores [k]. It takes float32 0 … 1, a list of [3, height, width] of any sizes or, with ``takes = "batch"``, one
    tensor [n, 3, height, width] of equally large pictures.
    """

    policy = BatchPolicy(max_size=8)
    decode_threads = 2

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        file: str | None = None,
        allow_pickle: bool = False,
        takes: str = "list",
        threshold: float = 0.5,
        max_objects: int = 100,
        max_side: int = 1333,
        labels: str | None = None,
    ) -> None:
        """Load the model. Objects with a score below ``threshold``, or beyond the best ``max_objects``, are left out.

        Pictures with a side above ``max_side`` pixels are scaled down first. Raises ModelError.
        """
        self.device = device
        need("PIL.Image", "images")
        self.module, static = self.load_module(model_dir, device, file, allow_pickle)
        if static is not None:
            self.policy = replace(self.policy, max_size=only_one(static))
        self.is_list = one_of("takes", takes, "list", "batch") == "list"
        self.threshold = within("threshold", threshold, 0, 1)
        self.max_objects = whole("max_objects", max_objects, 1, 100_000)
        self.max_side = whole("max_side", max_side, 1, 1 << 16)
        self.labels = read_labels(model_dir, labels)

    def decode(self, request: Request) -> Picture:
        # At full size: boxes are in pixels of the original.
        refuse_parameters(request)
        image = open_image(request)
        width, height = image.size
        shrink = min(1.0, self.max_side / max(width, height))
        if shrink < 1:
            image = image.resize((max(1, round(width * shrink)), max(1, round(height * shrink))), reducing_gap=2.0)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return Picture(pixels, (width / image.width, height / image.height))

    def bucket(self, sample: Picture) -> Hashable:
        return () if self.is_list else tuple(sample.shape)

    def collate(self, samples: Sequence[Picture]) -> tuple[Any, list[tuple[float, float]]]:
        images = [self.normalize(one.pixels.to(self.device)) for one in samples]
        return (images if self.is_list else torch.stack(images)), [one.scale for one in samples]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Convert uint8 to the module's float32 [3, height, width]; torchvision's detectors do the rest."""
        return pixels.float() / 255

    def predict(self, batch: tuple[Any, list[tuple[float, float]]]) -> Any:
        images, scales = batch
        outputs = self.outputs(self.module(images))
        if len(outputs) != len(scales):
            raise HandlerError(f"the module gave {len(outputs)} outputs for {len(scales)} pictures")
        return [self.select(output, scale) for output, scale in zip(outputs, scales, strict=True)]

    def outputs(self, output: Any) -> list[dict[str, Tensor]]:
        """Return the module's output as a dict for each picture.

        Scripted detectors return their losses first; a dict of stacked tensors is split.
        """
        if isinstance(output, tuple) and len(output) == 2:
            output = output[1]
        if isinstance(output, dict):
            rows = zip(*(output[name] for name in FIELDS), strict=True)
            return [dict(zip(FIELDS, row, strict=True)) for row in rows]
        return list(output)

    def select(self, output: dict[str, Tensor], scale: tuple[float, float]) -> Found:
        boxes, labels, scores = (output[name].cpu() for name in FIELDS)
        order = scores.argsort(descending=True)[: self.max_objects]
        order = order[scores[order] >= self.threshold]
        return Found(boxes[order].float() * torch.tensor([*scale, *scale]), labels[order], scores[order].float())

    def encode(self, output: Any, request: Request) -> Any:
        columns = (output.labels.tolist(), output.scores.tolist(), output.boxes.tolist())
        return [
            {"label": self.labels[int(label)], "score": score, "box": [round(one, 2) for one in box]}
            for label, score, box in zip(*columns, strict=True)
        ]
