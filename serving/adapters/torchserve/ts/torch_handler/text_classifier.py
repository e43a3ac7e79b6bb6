"""``ts.torch_handler.text_classifier``: the class of a text, from its words and pairs of words."""

from __future__ import annotations

from typing import Any

import torch

from serving.adapters.torchserve.texts import ngrams_iterator

from ..utils.util import PredictionException, map_class_to_label
from .text_handler import TextHandler


class TextClassifier(TextHandler):
    """A classifier of one text at a time: with a larger batch the server runs each request alone."""

    ngrams = 2

    def preprocess(self, data: Any) -> Any:
        """Return the numbers of the text's tokens, int64 [n], and the tokens."""
        line = data[0]
        text = line.get("data") or line.get("body")
        if isinstance(text, bytes | bytearray):
            text = text.decode()
        if not isinstance(text, str):
            raise PredictionException("the body is no text", 400)
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        tokens = self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))
        numbers = [self._number(token) for token in ngrams_iterator(tokens, self.ngrams)]
        return torch.as_tensor(numbers, dtype=torch.int64, device=self.device), tokens

    def _number(self, token: str) -> int:
        """Return a token's number; for unknown tokens a plain dict has none, except under ``<unk>``."""
        vocabulary = self.source_vocab
        if isinstance(vocabulary, dict) and token not in vocabulary and "<unk>" in vocabulary:
            return int(vocabulary["<unk>"])
        return int(vocabulary[token])

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model with the numbers and the offset of the only text, 0."""
        numbers, _ = data
        return super().inference(numbers, torch.as_tensor([0], device=self.device))

    def postprocess(self, data: Any) -> Any:
        return map_class_to_label(torch.nn.functional.softmax(data, dim=1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: Any = 0) -> Any:
        """Return the text's words and their contributions to ``target``. Raises CodedError without captum."""
        numbers, tokens = text_preprocess
        offsets = torch.zeros(1, dtype=torch.int64, device=self.device)
        found = self.lig.attribute(numbers, torch.zeros_like(numbers), additional_forward_args=offsets, target=target)
        return [{"importances": self.summarize_attributions(found).tolist(), "words": self.get_word_token(tokens)}]
