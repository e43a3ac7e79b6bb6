"""``ts.metrics.dimension``."""

from serving.worker.torchserve.metrics import Dimension

__all__ = ["Dimension"]
