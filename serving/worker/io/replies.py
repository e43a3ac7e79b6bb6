"""Replies: the engine's outcomes as frames for the HTTP worker."""

from __future__ import annotations

import contextlib

import msgspec
from msgspec.structs import replace

from serving.conversation import Close, Message
from serving.errors import HandlerError, ServingError, Unavailable
from serving.ipc.channel import Channel
from serving.ipc.wire import CREDIT, MAX_HEAD, CloseHead, FrameKind, ReplyHead, encode
from serving.request import Body, Response
from serving.session import Session
from serving.system import log
from serving.worker.batching.items import Item
from serving.worker.engine.streams.parts import Begin, End, More, Used

KNOWN = 1024  # heads that are remembered

_encoder = msgspec.msgpack.Encoder()
_heads: dict[tuple[int, str, str | None], bytes] = {}


def send(item: Item, outcome: Response | ServingError, kind: FrameKind = FrameKind.REPLY) -> None:
    """Send an answer or error, whole or, by ``kind``, as the beginning or end of a stream."""
    channel: Channel = item.reply_to
    try:
        head, body = packed(outcome, item.session, item.opens)
    except Exception as exc:
        head, body = mended(item, outcome, exc)
    channel.send(kind, item.id, head, body)


def mended(item: Item, outcome: Response | ServingError, exc: Exception) -> tuple[bytes, Body]:
    """Return an answer without the headers that cannot be sent, so that its body is kept."""
    request_id = item.request.request_id
    if isinstance(outcome, Response):
        with contextlib.suppress(Exception):
            bare = replace(outcome, custom_attributes=None)
            if len(bare.content_type) > MAX_HEAD // 2 or not bare.content_type.isascii():
                bare = replace(bare, content_type="application/octet-stream")
            found = packed(bare, item.session, item.opens)
            log.warning("custom attributes or a content type that cannot be sent were dropped", request_id=request_id)
            return found
    log.error("an answer cannot be sent", exc=exc, request_id=request_id)
    return packed(HandlerError("the model's answer cannot be sent; the log has more"))


def send_part(item: Item, part: Begin | More | Message | Used) -> None:
    channel: Channel = item.reply_to
    match part:
        case More(body):
            channel.send(FrameKind.CHUNK, item.id, b"", body)
        case Begin(response):
            item.begun = True
            send(item, response, FrameKind.BEGIN)
        case Used(count):
            channel.send(FrameKind.CREDIT, item.id, CREDIT.pack(count))
        case Message():
            channel.send(FrameKind.CHUNK, item.id, part.head, part.body)


def send_last(item: Item, outcome: Response | End | Close | ServingError) -> None:
    channel: Channel = item.reply_to
    if type(outcome) is Response and item.session is None and not item.begun:
        head = _heads.get((outcome.status, outcome.content_type, outcome.custom_attributes))
        if head is not None:
            channel.send(FrameKind.REPLY, item.id, head, outcome.body)
            return
    match outcome:
        case End():
            channel.send(FrameKind.END, item.id)
        case Close(code, reason):
            channel.send(FrameKind.END, item.id, _encoder.encode(CloseHead(code, reason)))
        case _:
            send(item, outcome, FrameKind.END if item.begun else FrameKind.REPLY)


def frame_of(item: Item, outcome: Response | ServingError) -> list[Body]:
    """Return the frame of a whole answer to a request without a session."""
    if isinstance(outcome, Response):
        head = _heads.get((outcome.status, outcome.content_type, outcome.custom_attributes))
        if head is not None:
            return encode(FrameKind.REPLY, item.id, head, outcome.body)
    try:
        head, body = packed(outcome)
    except Exception as exc:
        head, body = mended(item, outcome, exc)
    return encode(FrameKind.REPLY, item.id, head, body)


def packed(outcome: Response | ServingError, session: Session | None = None, opens: bool = False) -> tuple[bytes, Body]:
    """Return head and body of a REPLY. Raises any error of values from user code that cannot be encoded."""
    if isinstance(outcome, ServingError):
        again = getattr(outcome, "retry_after", Unavailable.retry_after)
        head = _encoder.encode(ReplyHead(int(outcome.status), code=str(outcome.code), retry_after=int(again)))
        body: Body = str(outcome.message).encode("utf-8", "backslashreplace")
    else:
        new = session.announcement if session is not None and opens else None
        closed = session.id if session is not None and session.is_closed else None
        attributes = outcome.custom_attributes
        head = _encoder.encode(ReplyHead(outcome.status, outcome.content_type, attributes, None, new, closed))
        body = outcome.body
    if len(head) > MAX_HEAD:
        raise ValueError(f"content type and custom attributes take {len(head)} bytes")
    msgspec.msgpack.decode(head, type=ReplyHead)
    if isinstance(outcome, Response) and not attributes and new is None and closed is None:
        remember(outcome, head)
    return head, body


def remember(outcome: Response, head: bytes) -> None:
    """Keep the head: most answers of a model have the same one."""
    if len(_heads) >= KNOWN:
        _heads.clear()
    _heads[outcome.status, outcome.content_type, outcome.custom_attributes] = head
