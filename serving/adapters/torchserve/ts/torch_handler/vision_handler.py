"""``ts.torch_handler.vision_handler``: images as one tensor."""

from __future__ import annotations

import base64
import functools
import io
from abc import ABC
from typing import Any

import torch
from PIL import Image

from serving.adapters.torchserve.insights import attribution
from serving.codecs.measuring import take_picture

from ..handler_utils.timer import timed
from .base_handler import BaseHandler


class VisionHandler(BaseHandler, ABC):
    """A handler of images. ``image_processing`` turns a Pillow image into a tensor; those of a batch have one shape."""

    image_processing: Any

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            Image.MAX_IMAGE_PIXELS = None

    @timed
    def preprocess(self, data: Any) -> Any:
        """Return images as [n, …] on the device; each is a file, base64 text, or nested lists of numbers."""
        return torch.stack([self._tensor(row.get("data") or row.get("body")) for row in data]).to(self.device)

    @functools.cached_property
    def ig(self) -> Any:
        """Captum's IntegratedGradients of the model."""
        return attribution("IntegratedGradients")(self.model)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        """Return the contribution of each number of each image to ``target``. Raises CodedError without captum."""
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()

    def _tensor(self, image: Any) -> Any:
        if isinstance(image, str):
            image = base64.b64decode(image)
        if isinstance(image, bytes | bytearray):
            picture = Image.open(io.BytesIO(image))
            take_picture(picture, image)
            return self.image_processing(picture)
        return torch.FloatTensor(image)
