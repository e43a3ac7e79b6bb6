"""Metrics of a handler's own: ``from serving.metrics import Counter, Gauge, Histogram``."""

from serving.metrics.instruments import Counter, Gauge, Histogram, values

__all__ = ["Counter", "Gauge", "Histogram", "values"]
