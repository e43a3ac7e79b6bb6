"""``ts.handler_utils.text_utils``."""

from serving.adapters.torchserve.texts import get_tokenizer, ngrams_iterator

__all__ = ["get_tokenizer", "ngrams_iterator"]
