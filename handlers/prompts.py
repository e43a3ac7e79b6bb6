"""Prompts: the fields of a request for text, with our names, common others and OpenAI's."""

from __future__ import annotations

from typing import Any, NamedTuple

from handlers.forms import OFFERED, SSE, Chat, ChatChunks, Form, form_of
from handlers.sampling import Sampling
from serving import BadRequest, Request, codecs

CHAT = "/v1/chat/completions"
PROMPTS = ("prompt", "inputs")
OPTIONS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "temperature", "top_k", "top_p", "stop", "seed")
HARMLESS = ("model", "messages", "stream", "stream_options", "parameters", "user", "metadata", "store")
NEUTRAL = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False}  # the only values accepted


class Prompt(NamedTuple):
    ids: list[int]
    sampling: Sampling
    form: Form


def read_wish(request: Request) -> dict[str, Any]:
    """Return a request's fields with those below ``parameters``. Raises BadRequest, also for a field without effect."""
    if request.media_type in codecs.TEXT:
        return {"prompt": codecs.decode_text(request.body, request.content_type)}
    wish = codecs.parse_json(request.body, request.content_type)
    if not isinstance(wish, dict) or not isinstance(wish.get("parameters", {}), dict):
        raise BadRequest("the body is a JSON object, and so are its parameters")
    found = {**wish, **wish.get("parameters", {})}
    for name, value in found.items():
        if name not in (*PROMPTS, *OPTIONS, *HARMLESS) and value is not None and NEUTRAL.get(name, ...) != value:
            raise BadRequest(f"{name[:50]} is not supported")
    return found


def prompt_of(wish: dict[str, Any]) -> str:
    text = next((wish[name] for name in PROMPTS if name in wish), None)
    if not isinstance(text, str):
        raise BadRequest(f"expected a text in {' or '.join(PROMPTS)}, or messages")
    return text


def messages_of(wish: dict[str, Any]) -> list[dict[str, str]]:
    messages = wish["messages"]
    for one in messages if isinstance(messages, list) and messages else [None]:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("role", "content")):
            raise BadRequest('messages is a list of {"role": "…", "content": "…"}, both texts, and not empty')
    return list(messages)


def choose_form(wish: dict[str, Any], request: Request) -> Form:
    """Return the answer's form. Raises BadRequest and NotAcceptable."""
    stream, extra = wish.get("stream") or False, wish.get("stream_options") or {}
    if not isinstance(stream, bool) or not isinstance(extra, dict):
        raise BadRequest("stream is true or false, stream_options an object")
    if request.path == CHAT:
        model, id = str(wish.get("model") or request.model), request.request_id
        return ChatChunks(model, id, includes_usage=bool(extra.get("include_usage"))) if stream else Chat(model, id)
    kind = codecs.negotiate(request.accept, OFFERED, SSE if stream else codecs.JSON)
    # Clients that accept JSON by habit mean events when they ask for a stream.
    return form_of(SSE if stream and kind == codecs.JSON else kind)
