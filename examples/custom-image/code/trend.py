"""Where a series of measurements is heading: dated numbers in, the line through them and its value on another date out.

    {"series": [["1 May 2026", 10], ["2026-05-02", 12]], "at": "05/10/2026"}
    {"per_day": 2.0, "value": 28.0}

Dates are written as people write them, which is what dateutil is for.
"""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from dateutil import parser
from torch import Tensor

from serving import BadRequest, BatchPolicy, Handler, Request

EPOCH = datetime(2000, 1, 1)  # small numbers of days, so that double precision sees seconds
DAY = 86400.0  # seconds


class Trend(Handler):
    """Series of one length share a batch."""

    policy = BatchPolicy(max_size=64)

    def load(self, model_dir: Path, device: str) -> None:
        self.device = device

    def decode(self, request: Request) -> Tensor:
        """[points + 1, 2] days and values; the last row is the day that is asked for."""
        asked = super().decode(request)
        try:
            rows = [(days(when), float(value)) for when, value in asked["series"]] + [(days(asked["at"]), 0.0)]
        except (LookupError, TypeError, ValueError, OverflowError) as exc:
            raise BadRequest(f"expected series: [[date, number], …] and at: a date; {exc}") from exc
        if len({day for day, _ in rows[:-1]}) < 2 or not all(math.isfinite(value) for _, value in rows):
            raise BadRequest("a line needs two different dates, and numbers that are finite")
        return torch.tensor(rows, dtype=torch.float64)

    def predict(self, batch: Tensor) -> Tensor:
        """[n, points + 1, 2] to [n, 2]: slope and value of the least squares line."""
        days, values, at = batch[:, :-1, 0], batch[:, :-1, 1], batch[:, -1, 0]
        middle, mean = days.mean(-1, keepdim=True), values.mean(-1, keepdim=True)
        slope = ((days - middle) * (values - mean)).sum(-1) / ((days - middle) ** 2).sum(-1)
        return torch.stack([slope, mean[:, 0] + slope * (at - middle[:, 0])], -1)

    def encode(self, output: Tensor, request: Request) -> dict[str, Any]:
        return {"per_day": round(float(output[0]), 6), "value": round(float(output[1]), 6)}


def days(when: object) -> float:
    """Days since EPOCH; what a date leaves out is EPOCH's, and of a time zone its own clock counts."""
    date: datetime = parser.parse(str(when), default=EPOCH)
    return (date.replace(tzinfo=None) - EPOCH).total_seconds() / DAY
