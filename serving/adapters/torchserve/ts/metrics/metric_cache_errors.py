"""``ts.metrics.metric_cache_errors``."""

from serving.adapters.torchserve.metrics import MetricsCacheKeyError, MetricsCacheTypeError, MetricsCacheValueError

__all__ = ["MetricsCacheKeyError", "MetricsCacheTypeError", "MetricsCacheValueError"]
