"""What a handler says in a conversation arrives as it was said, or is an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serving.conversation import Close, Conversation, Message
from serving.ipc.wire import Frame, FrameKind

HALVES = ["\ud800", "\udfff", "a\ud83d", "\ude00\ud83d", "é" * 100 + "\udc80"]


def said(*steps: Callable[[Conversation], Awaitable[None]]) -> list[Message | Close]:
    """What leaves where each step may fail with ValueError."""
    sent: list[Message | Close] = []

    async def run() -> None:
        stream = Conversation(sent.append, lambda count: None, lambda call: call())
        for step in steps:
            try:
                await step(stream)
            except ValueError as exc:
                assert "half a surrogate pair" in str(exc)

    asyncio.run(run())
    return sent


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize("fin", [True, False])
def test_half_a_surrogate_pair_is_an_error_and_the_conversation_goes_on(text: str, fin: bool) -> None:
    sent = said(lambda one: one.send(text, fin), lambda one: one.send(b"bytes"), lambda one: one.send("text 😀"))
    assert sent == [Message(b"bytes"), Message("text 😀")]
    assert said(lambda one: one.close(1000, text)) == []


@pytest.mark.parametrize("data", ["", "a", "é\0😀", b"", b"\xff\xd8"])
@pytest.mark.parametrize("fin", [True, False])
def test_a_message_is_the_same_on_the_other_side(data: str | bytes, fin: bool) -> None:
    message = Message(data, fin)
    assert Message.read(Frame(FrameKind.CHUNK, 1, message.head, message.body)) == message
