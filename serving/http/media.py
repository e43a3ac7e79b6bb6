"""Media types that bodies and answers are written in, by the names that clients call them."""

from __future__ import annotations

JSON = "application/json"
JSON_LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl")
CSV = "text/csv"
NPY = "application/x-npy"
NPZ = "application/x-npz"
RAW = "application/octet-stream"
TEXT = ("text/plain", "application/x-text")


def is_json(kind: str) -> bool:
    """Whether a bare media type is one document of JSON."""
    return kind == JSON or kind.endswith("+json")
