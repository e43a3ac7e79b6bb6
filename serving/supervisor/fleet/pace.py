"""Pace: how long the supervisor may rest between two looks.

A look costs little, but ten times as much while a model keeps the caches busy, and on the model's own cores.
"""

from __future__ import annotations

from collections.abc import Iterable

from serving.supervisor.fleet.deployment import Deployment, Stage, Status
from serving.supervisor.fleet.overrun import KILL_GRACE

TICK = 0.02  # seconds between looks while something is about to happen
REST = 0.1  # seconds between looks otherwise


def pause(models: Iterable[Deployment], now: float) -> float:
    """Return the seconds until the next look. Reports of a worker's end or phase are handled without waiting for it."""
    until = now + REST
    for deployment in models:
        if deployment.stage is not Stage.SERVING or (
            deployment.failed is None and len(deployment.replicas) < deployment.model.replicas
        ):
            return TICK
        for replica in deployment.replicas:
            if replica.status is not Status.READY or replica.overdue is not None or replica.cut is not None:
                return TICK
            if busy_until := replica.row.busy_until:
                until = min(until, busy_until + KILL_GRACE)
    return max(TICK, until - now)
