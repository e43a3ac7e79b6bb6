"""``ts.metrics.caching_metric``."""

from serving.adapters.torchserve.metrics import Metric as CachingMetric

__all__ = ["CachingMetric"]
