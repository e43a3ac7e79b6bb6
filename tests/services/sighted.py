"""Tells at its import and in each answer which GPUs CUDA would show it."""

from __future__ import annotations

import os
from typing import Any

from serving import Handler

print("sees", repr(os.environ.get("CUDA_VISIBLE_DEVICES")))


class Sighted(Handler):
    def predict(self, batch: list[Any]) -> list[Any]:
        return [{"sees": os.environ.get("CUDA_VISIBLE_DEVICES")} for _ in batch]
