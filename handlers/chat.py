"""ChatHandler: a base for models that talk with each client in a session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from handlers.options import overridable, whole
from serving import BadRequest, Handler, HandlerError, Request, Session, codecs

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": "…"}


class Turn(NamedTuple):
    session: Session
    text: str


class ChatHandler(Handler):
    """A handler of sessions in which a client sends text, or JSON with a text or ``{"text": "…"}``, and gets text.

    Override ``reply``; if it yields chunks the answer is a stream. The session keeps earlier messages up to the limits
    of ``load``: the oldest turns are dropped first, the ``system`` message never. A turn that fails or is aborted is
    not kept.
    """

    records = "one"

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        system: str | None = None,
        max_messages: int = 40,
        max_characters: int = 100_000,
        max_text: int = 10_000,
    ) -> None:
        """Set the limits. ``max_messages`` and ``max_characters`` bound what a session keeps.

        ``max_text`` bounds the characters of one request. Raises ModelError.
        """
        self.device = device
        self.system: list[Message] = [{"role": "system", "content": system}] if system else []
        self.max_messages = whole("max_messages", max_messages, 2, 1 << 20)
        self.max_characters = whole("max_characters", max_characters, 1, 1 << 30)
        self.max_text = whole("max_text", max_text, 1, 1 << 30)

    def reply(self, session: Session, messages: list[Message]) -> str | Iterable[str]:
        """Return the answer to the last of ``messages``; chunks are sent at once.

        The system's message and earlier ones come first. ``session.state`` is free for other data, except its
        ``"messages"``.
        """
        raise HandlerError(f"{type(self).__name__} does not define reply")

    def on_session_open(self, session: Session) -> None:
        session.state["messages"] = []

    def decode(self, request: Request) -> Turn:
        if request.session is None:
            raise BadRequest("this model talks in sessions: send SessionId NEW_SESSION first")
        text = self.read(request).strip()
        if not 0 < len(text) <= self.max_text:
            raise BadRequest(f"the text has {len(text)} characters; allowed: 1 to {self.max_text}")
        return Turn(request.session, text)

    def read(self, request: Request) -> str:
        if request.media_type != codecs.JSON:
            return codecs.decode_text(request.body, request.content_type)
        value = codecs.parse_json(request.body, request.content_type)
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise BadRequest('expected a text or {"text": "…"}')
        return text

    def predict(self, batch: list[Turn]) -> Any:
        return batch  # a reply may be long, so it is made in ``encode``, which can stream it

    def encode(self, output: Any, request: Request) -> Any:
        session, message = output.session, {"role": "user", "content": output.text}
        reply = self.reply(session, [*self.system, *session.state["messages"], message])
        if not isinstance(reply, str):
            return self.pieces(reply, session, message)
        self.remember(session, message, reply)
        return reply

    def pieces(self, reply: Iterable[str], session: Session, message: Message) -> Iterator[str]:
        texts = []
        for text in reply:
            texts.append(text)
            yield text
        self.remember(session, message, "".join(texts))

    def remember(self, session: Session, message: Message, reply: str) -> None:
        messages = [*session.state["messages"], message, {"role": "assistant", "content": reply}]
        # In pairs, so that the rest begins with the client.
        while len(messages) > self.max_messages or self.length(messages) > self.max_characters:
            messages = messages[2:]
        session.state["messages"] = messages

    def length(self, messages: list[Message]) -> int:
        """Return how much of ``max_characters`` messages take; a subclass may count tokens."""
        return sum(len(one["content"]) for one in messages)
