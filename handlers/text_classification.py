"""TextClassificationHandler: texts to labels, by a ``transformers`` checkpoint for sequence classification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from handlers.labels import Labels, probabilities, read_labels
from handlers.options import overridable, whole
from handlers.parameters import top_k_of
from handlers.text import TextHandler
from serving import Request


class TextClassificationHandler(TextHandler):
    """A handler that maps a text to ``{"label", "score"}``, or where ``topk`` is above 1 to a list of them, best first.

    A list of texts gets a list of answers. Scores add up to 1, unless the checkpoint's labels do not exclude each
    other.
    """

    auto_class = "AutoModelForSequenceClassification"

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        checkpoint: str = ".",
        max_length: int | None = None,
        truncate: bool = True,
        max_texts: int = 1024,
        dtype: str = "float32",
        topk: int = 1,
        labels: str | None = None,
    ) -> None:
        """Load the checkpoint. ``labels`` is a file of names that replaces its own; the rest is as for TextHandler."""
        super().load(model_dir, device, checkpoint, max_length, truncate, max_texts, dtype)
        self.topk = whole("topk", topk, 1, 1000)
        found = read_labels(model_dir, labels)
        self.labels = found if len(found) else Labels(self.model.config.id2label)

    def check_parameters(self, request: Request) -> None:
        top_k_of(request, self.topk, 1000)

    def outputs(self, output: Any, mask: Tensor) -> Tensor:
        logits: Tensor = output.logits.float()
        independent = self.model.config.problem_type == "multi_label_classification" or logits.shape[1] == 1
        return probabilities(logits, "independent" if independent else "logits")

    def encode(self, output: Any, request: Request) -> Any:
        count = top_k_of(request, self.topk, 1000)
        best = output.rows.topk(min(count, output.rows.shape[1]))
        found = [self.name(*pair, count) for pair in zip(best.values, best.indices, strict=True)]
        return found[0] if output.single else found

    def name(self, scores: Tensor, classes: Tensor, count: int) -> Any:
        """Return the answer for one text with its ``count`` best labels."""
        found = self.labels.scored(scores, classes)
        return found[0] if count == 1 else found
