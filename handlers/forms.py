"""Forms: the format of a generated text: events, lines, plain text, or one object."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving import codecs

SSE = "text/event-stream"
PLAIN = "text/plain"
OFFERED = (codecs.JSON, SSE, *codecs.JSON_LINES, PLAIN)


@dataclass(slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int = 0

    def table(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


class Form(Protocol):
    """A format. ``encode`` may return an empty text; ``end`` is called once."""

    content_type: str

    def encode(self, text: str) -> str: ...

    def end(self, reason: str, usage: Usage) -> str: ...


def form_of(content_type: str) -> Form:
    """Return the form for one of the offered types."""
    if content_type == codecs.JSON:
        return JsonObject()
    if content_type == PLAIN:
        return Plain()
    return ChunkRecords(content_type)


class Plain:
    content_type = "text/plain; charset=utf-8"

    def encode(self, text: str) -> str:
        return text

    def end(self, reason: str, usage: Usage) -> str:
        return ""


class JsonObject:
    """One JSON object ``{"text", "finish_reason", "usage"}``."""

    content_type = codecs.JSON

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, text: str) -> str:
        self.texts.append(text)
        return ""

    def end(self, reason: str, usage: Usage) -> str:
        return json.dumps({"text": "".join(self.texts), "finish_reason": reason, "usage": usage.table()})


@dataclass
class ChunkRecords:
    """``{"text"}`` for each chunk, and a last one with ``finish_reason`` and ``usage``, as events or lines."""

    content_type: str

    def encode(self, text: str) -> str:
        return self.record({"text": text}) if text else ""

    def end(self, reason: str, usage: Usage) -> str:
        return self.record({"text": "", "finish_reason": reason, "usage": usage.table()})

    def record(self, value: dict[str, Any]) -> str:
        return event(value) if self.content_type == SSE else json.dumps(value) + "\n"


@dataclass
class Chat:
    """A whole chat completion, as in OpenAI's API reference, "Create chat completion"."""

    model: str
    id: str
    content_type: str = codecs.JSON
    created: int = field(default_factory=lambda: int(time.time()))
    texts: list[str] = field(default_factory=list)

    def encode(self, text: str) -> str:
        self.texts.append(text)
        return ""

    def end(self, reason: str, usage: Usage) -> str:
        message = {"role": "assistant", "content": "".join(self.texts)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return json.dumps(self.body("chat.completion", [choice], usage=usage.table()))

    def body(self, kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
        head = {"id": f"chatcmpl-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}


@dataclass
class ChatChunks(Chat):
    """A chat completion in chunks; the first one names the role, and ``[DONE]`` follows the last."""

    content_type: str = SSE
    includes_usage: bool = False

    def encode(self, text: str) -> str:
        if not text:
            return ""
        role = {} if self.texts else {"role": "assistant"}
        self.texts.append(text)
        return self.chunk({**role, "content": text}, None)

    def end(self, reason: str, usage: Usage) -> str:
        last = event(self.body("chat.completion.chunk", [], usage=usage.table())) if self.includes_usage else ""
        return f"{self.chunk({}, reason)}{last}data: [DONE]\n\n"

    def chunk(self, delta: dict[str, str], reason: str | None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event(self.body("chat.completion.chunk", [choice]))


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
