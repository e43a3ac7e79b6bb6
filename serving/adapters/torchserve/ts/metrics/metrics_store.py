"""``ts.metrics.metrics_store``."""

from __future__ import annotations

from serving.adapters.torchserve.metrics import Metrics


class MetricsStore(Metrics):
    def __init__(self, request_ids: dict[int, str] | None, model_name: str) -> None:
        super().__init__(model_name)
        self.request_ids = request_ids
