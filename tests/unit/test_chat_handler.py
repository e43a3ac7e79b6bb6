"""What a chat remembers, and what it forgets."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.chat import ChatHandler, Message
from serving import BadRequest, Request, Session
from serving.request import Response
from serving.testing import Client


class Parrot(ChatHandler):
    """Says how much was said before, and the last text again, word by word if it begins with one."""

    def reply(self, session: Session, messages: list[Message]) -> Any:
        text = messages[-1]["content"]
        self.seen = messages
        return self.words(text) if text.startswith("slowly") else f"{len(messages)} {text}"

    def words(self, text: str) -> Iterator[str]:
        for word in text.split():
            if word == "fail":
                raise ValueError(word)
            yield f"{word} "


def new_session(client: Client) -> Session:
    session = Session("s", datetime.datetime.now(datetime.UTC))
    client.handler.on_session_open(session)
    return session


def say(client: Client, session: Session | None, body: bytes, kind: str = "text/plain") -> str:
    [outcome] = client.batch([Request(body, kind, session=session)])
    if not isinstance(outcome, Response):
        raise outcome
    return bytes(outcome.body).decode()


def test_what_was_said_is_remembered_in_its_session_only() -> None:
    client = Client(Parrot, system="be brief")
    one, two = new_session(client), new_session(client)
    assert say(client, one, b"hello") == "2 hello"
    assert say(client, one, b'{"text": "again"}', "application/json") == "4 again"
    assert say(client, two, b'"hello"', "application/json") == "2 hello"
    assert [one["role"] for one in client.handler.seen] == ["system", "user"]  # type: ignore[attr-defined]
    assert one.state["messages"][-1] == {"role": "assistant", "content": "4 again"}


def test_a_reply_in_pieces_is_remembered_as_a_whole_and_a_broken_one_not() -> None:
    client = Client(Parrot)
    session = new_session(client)
    assert say(client, session, b"slowly now") == "slowly now "
    assert session.state["messages"][-1]["content"] == "slowly now "
    [outcome] = client.batch([Request(b"slowly fail", "text/plain", session=session)])
    assert not isinstance(outcome, Response)
    assert len(session.state["messages"]) == 2


@pytest.mark.parametrize("limits", [{"max_messages": 4}, {"max_characters": 16}])
def test_the_oldest_is_forgotten_first(limits: dict[str, int]) -> None:
    client = Client(Parrot, **limits)
    session = new_session(client)
    for text in (b"aaa", b"bbb", b"ccc"):
        say(client, session, text)
    assert [one["content"] for one in session.state["messages"]][::2] == ["bbb", "ccc"]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"  ", "text/plain", "0 characters; allowed: 1 to 9"),
        (b"0123456789", "text/plain", "10 characters"),
        (b"\xff", "text/plain", "no UTF-8"),
        (json.dumps({"say": "x"}).encode(), "application/json", "expected a text"),
    ],
)
def test_what_is_no_text_is_refused(body: bytes, kind: str, message: str) -> None:
    client = Client(Parrot, max_text=9)
    with pytest.raises(BadRequest, match=message):
        say(client, new_session(client), body, kind)


def test_there_is_no_chat_without_a_session() -> None:
    with pytest.raises(BadRequest, match="NEW_SESSION"):
        say(Client(Parrot), None, b"hello")
