"""``ts.torch_handler.text_handler``: a model with a vocabulary."""

from __future__ import annotations

import functools
import string
import unicodedata
from abc import ABC
from pathlib import Path
from typing import Any

from serving.adapters.torchserve.insights import attribution
from serving.adapters.torchserve.loading import load_pickled
from serving.adapters.torchserve.texts import expand_contractions, get_tokenizer
from serving.errors import ModelError

from ..utils.util import CLEANUP_REGEX
from .base_handler import BaseHandler


class TextHandler(BaseHandler, ABC):
    """A handler with ``source_vocab.pt``, whose ``vocab[token]`` is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer = get_tokenizer("basic_english")
        self.input_text: Any = None

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        path = Path(self.get_source_vocab_path(context))
        self.source_vocab = load_pickled(path, "cpu", getattr(context, "allow_pickle", False))

    @functools.cached_property
    def lig(self) -> Any:
        """Captum's LayerIntegratedGradients of the model and its ``embedding``."""
        return attribution("LayerIntegratedGradients")(self.model, self.model.embedding)

    def get_source_vocab_path(self, ctx: Any) -> str:
        """Return the vocabulary's path. Raises ModelError where there is no such file."""
        name = ctx.manifest["model"].get("sourceVocab") or "source_vocab.pt"
        path = Path(ctx.system_properties["model_dir"]) / name
        if not path.is_file():
            raise ModelError(f"{path} is missing: text handlers need the vocabulary of their model there")
        return str(path)

    def _expand_contractions(self, text: str) -> str:
        return expand_contractions(text)

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(str.maketrans("", "", string.punctuation))

    def _remove_puncutation(self, text: str) -> str:
        """Remove punctuation; handlers for the oldest TorchServe call this misspelled name."""
        return self._remove_punctuation(text)

    def _tokenize(self, text: str) -> list[str]:
        return self.tokenizer(text)

    def get_word_token(self, input_tokens: list[str]) -> list[str]:
        """Return tokens without the mark that byte-pair encoders put before words."""
        return [token.replace("\u0120", "") for token in input_tokens]

    def summarize_attributions(self, attributions: Any) -> Any:
        import torch

        # The dimension that torch takes by default, as in TorchServe.
        shares = torch.nn.functional.softmax(attributions, dim=0 if attributions.dim() in (0, 1, 3) else 1)
        return shares / torch.norm(shares.sum(dim=-1))
