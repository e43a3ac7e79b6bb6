"""``ts.metrics.metric_type_enum``."""

from serving.adapters.torchserve.metrics import MetricTypes

__all__ = ["MetricTypes"]
