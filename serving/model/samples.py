"""Samples: example requests beside a model."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from pathlib import Path

from serving.model.names import is_hidden
from serving.request import Request

TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".csv": "text/csv",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".txt": "text/plain",
    ".bin": "application/octet-stream",
}


def samples(root: Path) -> list[Path]:
    """Return the files ``sample.*`` beside the model, and all in ``samples/``."""
    folder = root / "samples"
    found = [*root.glob("sample.*"), *(folder.iterdir() if folder.is_dir() else [])]
    return sorted(path for path in found if path.is_file() and not is_hidden(path.name))


def content_type(sample: Path) -> str:
    """Return the content type for a file's suffix."""
    return TYPES.get(sample.suffix) or mimetypes.guess_type(sample.name)[0] or "application/octet-stream"


def requests_of(root: Path) -> Iterator[Request]:
    for sample in samples(root):
        yield Request(sample.read_bytes(), content_type(sample), request_id=sample.name)
