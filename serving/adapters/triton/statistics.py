"""Statistics of a model, as Triton's clients read them at ``…/stats``: of this replica, since it was loaded."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serving.adapters.triton.calls import Call

OF_SUCCESS = ("success", "queue", "compute_input", "compute_infer", "compute_output")
NEVER = ("cache_hit", "cache_miss")  # there is no cache
SIZES = 1024  # batch sizes with counts of their own


class Statistics:
    """The counts and durations, in nanoseconds. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._requests = 0
        self._runs = 0
        self._counts: Counter[str] = Counter()
        self._spent: Counter[str] = Counter()
        self._batches: dict[int, tuple[int, int]] = {}

    @contextmanager
    def running(self, calls: Sequence[Call]) -> Iterator[None]:
        """Context in which ``execute`` works on these calls."""
        begun = time.monotonic_ns()
        for call in calls:
            call.begun_ns = call.begun_ns or begun
        try:
            yield
        finally:
            took = time.monotonic_ns() - begun
            self._ran(calls, took)

    def _ran(self, calls: Sequence[Call], took: int) -> None:
        size = sum(call.rows for call in calls)
        with self._lock:
            self._runs += 1
            self._last = time.time_ns() // 1_000_000
            count, spent = self._batches.get(size, (0, 0))
            if count or len(self._batches) < SIZES:
                self._batches[size] = count + 1, spent + took
        for call in calls:
            call.run_ns += took

    def succeeded(self, call: Call, output_ns: int) -> None:
        """Count a response, which took ``output_ns`` to encode."""
        now, arrived = time.monotonic_ns(), int(call.arrival * 1e9)
        total = now - arrived + call.read_ns
        spent = {
            "success": total,
            "queue": max(0, (call.begun_ns or now) - arrived),
            "compute_input": call.read_ns,
            "compute_infer": call.run_ns,
            "compute_output": output_ns,
        }
        with self._lock:
            self._requests += call.rows
            self._counts.update(spent.keys())
            self._spent.update(spent)

    def failed(self, arrival: float) -> None:
        """Count an error for a request that arrived at ``arrival``, in seconds of the monotonic clock."""
        with self._lock:
            self._counts["fail"] += 1
            self._spent["fail"] += time.monotonic_ns() - int(arrival * 1e9)

    def as_dict(self, name: str, version: str) -> dict[str, Any]:
        """Return the statistics in the protocol's form."""
        with self._lock:
            kinds = (*OF_SUCCESS, "fail", *NEVER)
            return {
                "name": name,
                "version": version,
                "last_inference": self._last,
                "inference_count": self._requests,
                "execution_count": self._runs,
                "inference_stats": {kind: duration(self._counts[kind], self._spent[kind]) for kind in kinds},
                "batch_stats": [of_batches(size, *found) for size, found in sorted(self._batches.items())],
                "memory_usage": [],
                "response_stats": {},
            }


def duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def of_batches(size: int, count: int, ns: int) -> dict[str, Any]:
    """Return one batch size's entry. Input and output times are 0, since they are spent per request here."""
    nothing = duration(count, 0)
    return {
        "batch_size": size,
        "compute_input": nothing,
        "compute_infer": duration(count, ns),
        "compute_output": nothing,
    }
