"""English text as tokens, for text classifiers with vocabularies of torchtext's ``basic_english``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

SPACED = re.compile(r"([.,()!?'])")
BLANK = re.compile(r"<br />|[;:]")
PRONOUNS = "i|you|he|she|it|we|they|that|there|this|these|those|who|what|where|when|why|how|which"
MODALS = "could|should|would|might|must|may|will|not"
WHOLE = {
    "ain't": "is not",
    "can't": "cannot",
    "'cause": "because",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "shan't": "shall not",
    "won't": "will not",
    "y'all": "you all",
}
SUFFIXES = (
    (re.compile(r"n't\b", re.IGNORECASE), " not"),
    (re.compile(rf"\b({PRONOUNS}|{MODALS})'ve\b", re.IGNORECASE), r"\1 have"),
    (re.compile(rf"\b({PRONOUNS})'ll\b", re.IGNORECASE), r"\1 will"),
    (re.compile(rf"\b({PRONOUNS})'d\b", re.IGNORECASE), r"\1 would"),
    (re.compile(rf"\b({PRONOUNS})'re\b", re.IGNORECASE), r"\1 are"),
    (re.compile(rf"\b({PRONOUNS}|so|here)'s\b", re.IGNORECASE), r"\1 is"),
    (re.compile(r"\bi'm\b", re.IGNORECASE), "i am"),
)
FIXED = re.compile("|".join(rf"(?<!\w){re.escape(word)}\b" for word in WHOLE), re.IGNORECASE)


def expand_contractions(text: str) -> str:
    """Write out ``I'm`` and other contractions, and remove all other apostrophes."""
    text = FIXED.sub(lambda match: WHOLE[match.group(0).lower()], text)
    for pattern, replacement in SUFFIXES:
        text = pattern.sub(replacement, text)
    return text.replace("'", "")


def basic_english(line: str) -> list[str]:
    """Return lower-case words and single marks, without quotation marks, semicolons and colons."""
    line = BLANK.sub(" ", line.lower().replace('"', ""))
    return SPACED.sub(r" \1 ", line).split()


def get_tokenizer(
    tokenizer: str | Callable[[str], list[str]] | None, language: str = "en"
) -> Callable[[str], list[str]]:
    """Return a tokenizer; None splits at blanks. Raises ValueError for a name other than ``basic_english``."""
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        return tokenizer
    if tokenizer == "basic_english" and language == "en":
        return basic_english
    raise ValueError(f"tokenizer is {tokenizer!r} for {language!r}; allowed: basic_english for 'en', a function, None")


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """Yield the tokens, then all pairs of neighbours, and so on up to ``ngrams`` in a row."""
    yield from token_list
    for size in range(2, ngrams + 1):
        for start in range(len(token_list) - size + 1):
            yield " ".join(token_list[start : start + size])
