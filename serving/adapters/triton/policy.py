"""Policy: how a Triton configuration batches requests, and how long it lets them wait."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.adapters.triton.calls import Call
from serving.adapters.triton.config import TritonConfig
from serving.errors import ModelError, Unavailable
from serving.handler import MAX_BATCH, BatchPolicy


def policy_of(config: TritonConfig) -> BatchPolicy:
    """Return the batch policy. Without a batching scheduler each request runs alone, as in Triton."""
    batching = config.dynamic_batching
    size = config.max_batch_size if batching is not None or config.sequence_batching is not None else 1
    delay = queue = 0
    if batching is not None:
        delay = batching.max_queue_delay_microseconds
        queue = batching.default_queue_policy.max_queue_size if batching.default_queue_policy is not None else 0
        if delay and batching.preferred_batch_size:
            size = max(batching.preferred_batch_size)  # a batch of this size is not delayed any longer
    if config.sequence_batching is not None:
        strategy = config.sequence_batching.oldest or config.sequence_batching.direct
        size, delay = config.max_batch_size, 0 if strategy is None else strategy.max_queue_delay_microseconds
    try:
        return BatchPolicy(min(MAX_BATCH, max(1, size)), delay / 1000, queue or None)
    except ValueError as exc:
        raise ModelError(f"the model's dynamic_batching: {exc}") from exc


def patience_of(config: TritonConfig, call: Call) -> float:
    """Return the seconds that the queue policy lets the request wait; 0 for no limit."""
    batching = config.dynamic_batching
    policy = None if batching is None else batching.default_queue_policy
    if policy is None or policy.timeout_action == "DELAY":
        return 0.0
    limit = policy.default_timeout_microseconds
    if policy.allow_timeout_override and call.timeout:
        limit = min(limit, call.timeout) if limit else call.timeout
    return limit / 1e6


def drop_late(calls: Sequence[Call]) -> None:
    now = time.monotonic()
    for call in calls:
        if call.patience and now - call.arrival > call.patience:
            call.failure = Unavailable("the request waited longer than the model's queue policy allows")
