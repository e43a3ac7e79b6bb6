"""``ts.metrics.metric_type_enum``."""

from serving.worker.torchserve.metrics import MetricTypes

__all__ = ["MetricTypes"]
