"""Arrivals: requests read from frames."""

from __future__ import annotations

from types import MappingProxyType

import msgspec

from serving.deadline import Deadline
from serving.http.paths import INVOCATIONS
from serving.ipc.channel import Channel
from serving.ipc.wire import Frame, RequestHead
from serving.request import NO_HEADERS, Request
from serving.worker.batching.items import Item

_request_head = msgspec.msgpack.Decoder(RequestHead)


def item_of(frame: Frame, channel: Channel) -> tuple[Item, bool]:
    """Return the frame's request, and whether a worker that died had accepted it before."""
    head = _request_head.decode(frame.head)
    request = Request(
        body=frame.body,
        content_type=head.content_type,
        accept=head.accept,
        request_id=head.request_id,
        deadline=Deadline(head.deadline),
        model=head.model,
        sagemaker=MappingProxyType(head.sagemaker) if head.sagemaker else NO_HEADERS,
        path=head.path or INVOCATIONS,
        content_encoding=head.content_encoding,
        headers=MappingProxyType(head.headers) if head.headers else NO_HEADERS,
    )
    return Item(frame.id, request, channel, head.alone), head.accepted
