"""``ts.metrics.caching_metric``."""

from serving.worker.torchserve.metrics import Metric as CachingMetric

__all__ = ["CachingMetric"]
