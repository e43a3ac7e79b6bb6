"""Hollow arrays: those with many positions and no bytes, such as one of shape (100000000, 0).

A short head claims them, and yet lists, JSON and loops visit each of their positions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from serving import claims
from serving.codecs.measuring import GLANCED
from serving.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np

HOLLOW = 1 << 20  # positions without bytes that an array may have
PLACE = 64  # bytes of one as an object


def check_hollow(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Claim the memory of an array's positions without bytes, as objects.

    Raises BadRequest for more than any real array has; BodyTooLarge and BodiesFull.
    """
    count = hollow(shape, dtype)
    if count > HOLLOW:
        raise BadRequest(
            f"the body's array of {str(dtype)[:100]} with shape {str(shape)[:100]} has {count} positions without "
            f"a byte; allowed: {HOLLOW}"
        )
    if count * PLACE >= GLANCED:
        claims.take(count * PLACE)


def hollow(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Count the positions without bytes, as if lengths of 0 were 1: of all fields of a record."""
    if dtype.subdtype is not None:
        base, inner = dtype.subdtype
        return hollow((*shape, *inner), base)
    if dtype.names:
        return sum(hollow(shape, dtype[name]) for name in dtype.names)
    return 0 if dtype.itemsize and 0 not in shape else math.prod(one for one in shape if one)
