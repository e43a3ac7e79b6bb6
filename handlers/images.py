"""Images: a body decoded to an upright RGB Pillow image, within limits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from handlers.options import need
from handlers.wrapped import unwrapped
from serving import BadRequest, Request, ServingError, UnsupportedMediaType, claims, codecs

PIXEL = 4  # bytes of a pixel in Pillow's memory
TYPES = ("application/x-image",)  # image/* as well


def open_image(request: Request, at_least: int | None = None) -> Any:
    """Return a request's picture: any format that Pillow reads, or npy of uint8 [height, width(, 3)].

    It may also be in a form, in JSON as base64, or under a generic type. A JPEG much larger than ``at_least`` pixels on
    both sides is decoded at a half, a quarter or an eighth of its size, in a fraction of the time. Raises BadRequest,
    UnsupportedMediaType, and what ``codecs.take_picture`` raises.
    """
    request = unwrapped(request, "picture")
    kind = request.media_type
    if kind == codecs.NPY:
        return from_array(codecs.decode_npy(request.body))
    if not kind.startswith("image/") and kind not in TYPES:
        raise UnsupportedMediaType(
            f"content type {kind[:100] or '(none)'} is no image; known: image/*, npy, "
            "multipart/form-data, application/json with base64, application/octet-stream"
        )
    pillow = need("PIL.Image", "images")
    try:
        with pillow.open(io.BytesIO(request.body)) as image:
            check_size(image.width, image.height)
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            cost = codecs.take_picture(image, request.body)
            upright = codecs.turned(image).convert("RGB")
    except ServingError:
        raise
    except Exception as exc:  # each of Pillow's readers raises errors of its own
        raise BadRequest(f"the body is no image that can be read: {type(exc).__name__}") from exc
    claims.give(cost - PIXEL * upright.width * upright.height)
    return upright


def from_array(array: Any) -> Any:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise BadRequest(
            f"an npy image is uint8 [height, width, 3] or [height, width], not {array.dtype} {list(array.shape)}"
        )
    check_size(*array.shape[:2])
    return need("PIL.Image", "images").fromarray(array).convert("RGB")


def check_size(width: int, height: int) -> None:
    if not 0 < width * height <= codecs.PIXEL_LIMIT:
        raise BadRequest(f"the image has {width} x {height} pixels; allowed: 1 to {codecs.PIXEL_LIMIT} in all")
