"""Labels: the names of a classifier's outputs, from a file beside the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from serving.errors import ModelError
from serving.model.modelfile import unmarked

FILES = ("index_to_name.json", "labels.txt")


class Labels:
    """Names by output index; an output without a name gets its index as text."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = dict(names)

    def __getitem__(self, index: int) -> str:
        return self.names.get(index, str(index))

    def __len__(self) -> int:
        return len(self.names)

    def scored(self, scores: Tensor, classes: Tensor) -> list[dict[str, Any]]:
        """Return a ``{"label", "score"}`` for each of scores [n] and classes [n]."""
        pairs = zip(classes.tolist(), scores.tolist(), strict=True)
        return [{"label": self[one], "score": score} for one, score in pairs]


def probabilities(outputs: Tensor, kind: str) -> Tensor:
    """Return […, classes] of 0 … 1 from ``logits``, ``probabilities`` or ``independent`` logits.

    Independent labels do not exclude each other.
    """
    if kind == "logits":
        return outputs.softmax(-1)
    return outputs.sigmoid() if kind == "independent" else outputs


def read_labels(model_dir: Path, file: str | None = None) -> Labels:
    """Read ``file``, else ``index_to_name.json`` or ``labels.txt`` (a name a line), else no names. Raises ModelError.

    The JSON is a list of names, or an object from index to name or to a list whose last entry is the name, as in files
    for ImageNet.
    """
    for path in (model_dir / name for name in ([file] if file else FILES)):
        if path.is_file():
            return parse(path)
    if file:
        raise ModelError(f"{model_dir} has no {file}, which [options] names as its labels")
    return Labels({})


def parse(path: Path) -> Labels:
    try:
        text = unmarked(path.read_bytes()).decode()
        if path.suffix != ".json":
            return Labels(dict(enumerate(line.strip() for line in text.strip().splitlines())))
        value = json.loads(text)
        pairs = enumerate(value) if isinstance(value, list) else value.items()
        return Labels({int(index): name_of(entry) for index, entry in pairs})
    except (ValueError, AttributeError, IndexError) as exc:
        raise ModelError(f"{path}: expected the names of the outputs; {type(exc).__name__}: {exc}") from exc


def name_of(entry: Any) -> str:
    return str(entry[-1] if isinstance(entry, list) else entry)
