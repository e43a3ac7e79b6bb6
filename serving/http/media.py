"""The media types of requests and responses that the server knows."""

from __future__ import annotations

JSON = "application/json"
JSON_LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl")
CSV = "text/csv"
NPY = "application/x-npy"
NPZ = "application/x-npz"
RAW = "application/octet-stream"
TEXT = ("text/plain", "application/x-text")


def is_json(kind: str) -> bool:
    """Return whether a media type without parameters is one JSON document."""
    return kind == JSON or kind.endswith("+json")
