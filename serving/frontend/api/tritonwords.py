"""Triton's wording and sums, which its clients compare: errors, states of models, statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from serving.errors import CodedError, ModelNotFound, ModelNotLoaded, ServingError
from serving.http.open_inference import UNKNOWN
from serving.ipc.messages import Listed

STATES = {"ready": "READY", "loading": "LOADING", "unavailable": "UNAVAILABLE"}
SUMMED = ("inference_count", "execution_count")


def of_model(error: ServingError, model: str) -> ServingError:
    """Return the error for a model that cannot be asked, in Triton's words."""
    if error.code == ModelNotFound.code:
        return CodedError(error.status, error.code, f"{UNKNOWN} '{model}' is not found")
    if error.code == ModelNotLoaded.code:
        return CodedError(error.status, error.code, f"{UNKNOWN} '{model}' has no available versions")
    return error


def of_load(error: ServingError, model: str) -> ServingError:
    """Return the error for a failed load, in Triton's words."""
    reason = "failed to poll from model repository" if error.code == ModelNotFound.code else error.message
    return CodedError(error.status, error.code, f"failed to load '{model}', {reason}")


def entry(listed: Listed) -> dict[str, str]:
    """Return a model's entry in the index."""
    found = {"name": listed.name, "version": listed.version, "state": STATES[listed.state]}
    return found | ({"reason": listed.reason} if listed.reason else {})


def summed(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return a model's statistics, summed over those of its replicas. ``parts`` must not be empty."""
    first, *others = parts
    total = dict(first)
    for one in others:
        total |= {name: total[name] + one[name] for name in SUMMED}
        total["last_inference"] = max(total["last_inference"], one["last_inference"])
        total["inference_stats"] = added(total["inference_stats"], one["inference_stats"])
    total["batch_stats"] = batches(one for part in (first, *others) for one in part["batch_stats"])
    return total


def batches(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    by_size: dict[int, dict[str, Any]] = {}
    for one in parts:
        size = one["batch_size"]
        by_size[size] = added(by_size[size], one) | {"batch_size": size} if size in by_size else one
    return [by_size[size] for size in sorted(by_size)]


def added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of two sets of durations by name; each duration is a count and nanoseconds."""
    return {
        name: {key: value + other[name][key] for key, value in duration.items()}
        for name, duration in one.items()
        if isinstance(duration, dict)
    }
