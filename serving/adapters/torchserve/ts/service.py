"""``ts.service``: the one function of it that handlers call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from serving.system import log


def emit_metrics(metrics: Iterable[Any] | None) -> None:
    """Log each metric at level debug, like those of ``context.metrics``."""
    for metric in metrics or ():
        log.debug("metric", metric=str(metric))
