"""``ts.metrics.metric``: one measured value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.adapters.torchserve.metrics import Dimension


class Metric:
    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = unit
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float) -> None:
        self.value = self.value + value if self.metric_method == "counter" else value

    def reset(self) -> None:
        self.value = 0

    def to_dict(self) -> dict[str, Any]:
        dimensions = [one.to_dict() for one in self.dimensions]
        fields = {"MetricName": self.name, "Value": self.value, "Unit": self.unit, "Dimensions": dimensions}
        return {**fields, "RequestId": self.request_id}

    def __str__(self) -> str:
        return f"{self.name}.{self.unit}:{self.value}|#{','.join(map(str, self.dimensions))}"
