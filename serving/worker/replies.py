"""Replies: what the engine has come to, as frames for the HTTP worker that asked."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from serving import log
from serving.channel import Channel
from serving.conversation import Close, Message
from serving.errors import HandlerError, ServingError
from serving.request import Body, Response
from serving.session import Session
from serving.wire import CREDIT, MAX_HEAD, CloseHead, Kind, PieceHead, ReplyHead
from serving.worker.batcher import Item
from serving.worker.streams import Begin, End, More, Used

ATTRIBUTES = 1024  # characters

_encoder = msgspec.msgpack.Encoder()


def send(item: Item, outcome: Response | ServingError, kind: Kind = Kind.REPLY) -> None:
    """An answer or an error, whole or, as ``kind`` says, the beginning or the end of one in pieces."""
    channel: Channel = item.reply_to
    if isinstance(outcome, Response):
        outcome = tidy(outcome, item.request.request_id)
    try:
        head, body = packed(outcome, item.session, item.opens)
    except Exception as exc:
        log.error("an answer cannot be sent", exc=exc, request_id=item.request.request_id)
        head, body = packed(HandlerError("the model's answer cannot be sent; the log has more"))
    channel.send(kind, item.id, head, body)


def send_part(item: Item, part: Begin | More | Message | Used) -> None:
    channel: Channel = item.reply_to
    match part:
        case More(body):
            channel.send(Kind.PIECE, item.id, b"", body)
        case Begin(response):
            item.begun = True
            send(item, response, Kind.BEGIN)
        case Used(count):
            channel.send(Kind.CREDIT, item.id, CREDIT.pack(count))
        case Message():
            channel.send(Kind.PIECE, item.id, bytes([piece_head(part)]), part.body)


def send_last(item: Item, outcome: Response | End | Close | ServingError) -> None:
    channel: Channel = item.reply_to
    match outcome:
        case End():
            channel.send(Kind.END, item.id)
        case Close(code, reason):
            channel.send(Kind.END, item.id, _encoder.encode(CloseHead(code, reason)))
        case _:
            send(item, outcome, Kind.END if item.begun else Kind.REPLY)


def piece_head(message: Message) -> PieceHead:
    text = PieceHead.TEXT if isinstance(message.data, str) else PieceHead(0)
    return text | (PieceHead.FIN if message.fin else PieceHead(0))


def tidy(response: Response, request_id: str) -> Response:
    """An answer is kept though what stands above it cannot be sent."""
    attributes = response.custom_attributes
    if attributes is not None and (len(attributes) > ATTRIBUTES or not attributes.isascii()):
        log.warning("custom attributes dropped: not printable ASCII of at most 1024", request_id=request_id)
        response = replace(response, custom_attributes=None)
    if len(response.content_type) > ATTRIBUTES or not response.content_type.isascii():
        log.warning("a content type that is none was dropped", request_id=request_id)
        response = replace(response, content_type="application/octet-stream")
    return response


def packed(outcome: Response | ServingError, session: Session | None = None, opens: bool = False) -> tuple[bytes, Body]:
    """Head and body of a REPLY. Raises whatever comes of values that user code has put in and nobody could read."""
    if isinstance(outcome, ServingError):
        head = _encoder.encode(ReplyHead(int(outcome.status), code=str(outcome.code)))
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
    return head, body
