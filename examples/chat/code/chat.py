"""A stateful chat: each session teaches its own small language model, which answers with what it has learnt so far.

The model is a table of which word follows which, a [n, n] tensor of counts per session. Nothing is downloaded.
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from handlers.chat import ChatHandler, Message
from serving import Session

BASE = "i like to talk . you like to listen . talk to me and i will talk to you . i will listen to what you like ."


class Chat(ChatHandler):
    """Text in, text out; a request without a session is refused."""

    def load(self, model_dir: Path, device: str, words: int = 12) -> None:
        super().load(model_dir, device)
        self.words = words

    def on_session_open(self, session: Session) -> None:
        super().on_session_open(session)
        session.state["vocabulary"] = {}
        session.state["counts"] = torch.zeros(0, 0)
        learn(session, BASE)

    def reply(self, session: Session, messages: list[Message]) -> str:
        text = messages[-1]["content"].lower()
        learn(session, f"{text} .")
        vocabulary, counts = session.state["vocabulary"], session.state["counts"]
        names = list(vocabulary)
        word, said = vocabulary[text.split()[-1]], []
        for _ in range(self.words):
            word = int(counts[word].argmax())
            if names[word] == ".":
                break
            said.append(names[word])
            counts[word] *= 0.9  # what was said lately is said less
        return " ".join(said) or "go on"


def learn(session: Session, text: str) -> None:
    """Count the pairs of words in ``text``, new words included."""
    vocabulary = session.state["vocabulary"]
    ids = [vocabulary.setdefault(word, len(vocabulary)) for word in text.split()]
    old: Tensor = session.state["counts"]
    counts = torch.zeros(len(vocabulary), len(vocabulary))
    counts[: len(old), : len(old)] = old
    for first, second in pairwise(ids):
        counts[first, second] += 1
    session.state["counts"] = counts
