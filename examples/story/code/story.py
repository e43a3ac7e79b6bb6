"""A story, word by word as they are thought of: plain text, server-sent events, or OpenAI's chat completions.

The model is a table of which word follows which two, made when it loads. Nothing is downloaded.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from serving import BadRequest, Handler, Request, StreamingResponse

TEXT = """
once upon a time there was a small boat on a wide sea and the small boat was made of paper and the wide sea was
made of rain . every day the small boat sailed from the edge of the table to the edge of the world and every night it
sailed back again . the rain said to the small boat that the sea was too wide for a boat of paper . the small boat said
that the world was not wide at all for one who goes every day . so the rain laughed and the sea was calm and the small
boat sailed on ."""
CHAT = "/v1/chat/completions"
MOST = 500  # words


class Story(Handler):
    """``{"words": 20, "seed": 1}`` at ``/invocations``, or a chat request at ``/v1/chat/completions``."""

    post_paths = (CHAT,)

    def load(self, model_dir: Path, device: str, order: int = 2) -> None:
        self.order = order
        self.words = TEXT.split()
        self.follows: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for at in range(len(self.words)):
            self.follows[self.context(at)][self.words[at]] += 1

    def context(self, at: int) -> tuple[str, ...]:
        return tuple(self.words[at - self.order + i] for i in range(self.order))

    def decode(self, request: Request) -> dict[str, Any]:
        wish = json.loads(bytes(request.body) or b"{}")
        count = wish.get("max_tokens" if request.path == CHAT else "words") or 40
        if not isinstance(count, int) or not 1 <= count <= MOST:
            raise BadRequest(f"words or max_tokens is {count!r}; allowed: 1 to {MOST}")
        return {"count": count, "seed": int(wish.get("seed") or 0), "stream": wish.get("stream", True)}

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return batch  # all the work is in the words, one at a time

    def encode(self, output: dict[str, Any], request: Request) -> Any:
        words = self.tell(output["count"], output["seed"])
        if request.path == CHAT:
            return chat(words, output["stream"], request.request_id)
        if "text/event-stream" in request.accept:
            return StreamingResponse((event({"word": word}) for word in words), "text/event-stream")
        return (f"{word} " for word in words)

    def tell(self, count: int, seed: int) -> Iterator[str]:
        random = torch.Generator().manual_seed(seed)
        recent = list(self.words[: self.order])
        for _ in range(count):
            choices = self.follows[tuple(recent)]
            weights = torch.tensor(list(choices.values()), dtype=torch.float)
            word = list(choices)[int(torch.multinomial(weights, 1, generator=random))]
            recent = [*recent[1:], word]
            yield word


def chat(words: Iterator[str], stream: bool, id: str) -> Any:
    """A chat completion, whole or in chunks (OpenAI API reference, "Chat")."""
    head = {"id": f"chatcmpl-{id}", "created": int(time.time()), "model": "story"}
    if not stream:
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return {**head, "object": "chat.completion", "choices": [choice]}
    return StreamingResponse(chunks(words, {**head, "object": "chat.completion.chunk"}), "text/event-stream")


def chunks(words: Iterator[str], head: dict[str, Any]) -> Iterator[str]:
    for word in words:
        yield event({**head, "choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
    yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    yield "data: [DONE]\n\n"


def event(data: object) -> str:
    return f"data: {json.dumps(data)}\n\n"
