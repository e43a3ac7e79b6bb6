"""Pictures: a body decoded to an upright Pillow image with 8 bits a channel that keeps the meaning of the pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from serving import claims
from serving.codecs.measuring import take_picture
from serving.errors import BadRequest, ServingError, UnsupportedMediaType
from serving.request import Body

if TYPE_CHECKING:
    import numpy as np

SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
SCALED = ("PNG", "PPM", "TIFF", "JPEG2000")  # formats in which the largest value is white
WIDENED = ("PNG", "PPM")  # formats whose 16 bits Pillow may open as 32
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF tag, and its value for inverted pictures (TIFF 6.0, p. 37)
BITS = 258  # the TIFF tag BitsPerSample
PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


def decode_image(body: Body) -> np.ndarray:
    """Decode to uint8 [height, width] for grey of 8 or 16 bits, else [height, width, 3]."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as exc:
        raise UnsupportedMediaType("images need the package pillow, which is not installed") from exc
    import numpy as np

    try:
        with Image.open(io.BytesIO(body)) as image:
            cost = take_picture(image, body)
            upright = turned(image)
            array = np.array(upright if upright.mode == "L" else upright.convert("RGB"))
    except ServingError:
        raise
    except UnidentifiedImageError as exc:
        raise BadRequest("the body is no image that can be read: it begins as none that is known does") from exc
    except Exception as exc:  # each of Pillow's readers raises errors of its own
        raise BadRequest("the body is no image that can be read: it is damaged, or not all of it is there") from exc
    claims.give(cost - array.nbytes)
    return array


def turned(image: Any) -> Any:
    """Return a Pillow image upright, in a mode that ``convert("RGB")`` understands.

    16 bits are cut to the upper 8, as Pillow does in colour. Transparency and colour profiles are ignored; of several
    frames or pages the first is used. Raises BadRequest for pixels without a known black and white.
    """
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if (mode in SIXTEEN and image.format in SCALED) or (mode == "I" and image.format in WIDENED):
        return upper_bits(upright, image)
    if mode not in PLAIN:
        raise BadRequest(
            f"the image ({image.format}) has pixels of Pillow's mode {mode}, of which it is not known "
            "what is black and what is white: send one of 8 or 16 bits, or its numbers as npy"
        )
    return upright


def upper_bits(upright: Any, image: Any) -> Any:
    import numpy as np
    from PIL import Image

    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (16,))
    if tuple(bits) not in ((16,), ()):
        raise BadRequest(f"the image has samples of {bits[0]} bits; send 8 or 16")
    pixels = np.asarray(upright)
    if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 0xFFFF:
        raise BadRequest("the image has pixels beyond 16 bits; send 8 or 16 bits a sample")
    grey = (pixels >> 8).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)
