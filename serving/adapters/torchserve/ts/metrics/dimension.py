"""``ts.metrics.dimension``."""

from serving.adapters.torchserve.metrics import Dimension

__all__ = ["Dimension"]
