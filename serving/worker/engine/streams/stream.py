"""Stream: one answer in chunks, whoever makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from inspect import isasyncgen, isgenerator
from typing import Any, cast

from serving import codecs
from serving.errors import HandlerError
from serving.http.accept import concrete
from serving.ipc.flow import Flow, cost
from serving.request import Chunk, Chunks, Request, Response, StreamingResponse
from serving.worker.batching.items import Item
from serving.worker.engine.checks import check_head
from serving.worker.engine.streams.parts import Begin, End, More

TEXT, BYTES = "text/plain; charset=utf-8", "application/octet-stream"

NOBODY = Item(0, Request())


def nothing() -> None:
    """Do nothing, after the end."""


@dataclass(slots=True, eq=False)
class Stream:
    """One stream under way. ``on_end`` is called after its last chunk, ``wake`` when it may go on or has to end."""

    item: Item
    response: StreamingResponse
    on_end: Callable[[], None]
    wake: Callable[[Stream], None]
    flow: Flow = field(default_factory=Flow)
    begun: bool = False
    settled: bool = False
    task: asyncio.Task[None] | None = None
    room: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        self.wake(self)

    @property
    def chunks(self) -> Iterator[Chunk]:
        return cast("Iterator[Chunk]", self.response.pieces)

    @property
    def charset(self) -> str:
        """The charset of the stream's text. Raises HandlerError for an unknown one."""
        return codecs.own_charset(self.response.content_type or "")

    def take(self, chunk: Chunk) -> Begin | More:
        """Return what to send for a chunk. Raises HandlerError where it is neither text nor bytes, or has a character
        that the charset lacks."""
        if not isinstance(chunk, str | bytes | bytearray | memoryview):
            raise HandlerError(f"the pieces of an answer are text or bytes, not {type(chunk).__name__}")
        body = codecs.to_bytes(chunk, self.charset) if isinstance(chunk, str) else bytes(chunk)
        if self.begun:
            self.flow.sent += cost(body)
            return More(body)
        self.begun = True
        return self._head(body, TEXT if isinstance(chunk, str) else BYTES)

    def _head(self, body: bytes, usual: str) -> Begin:
        response = self.response if self.response.late is None else self.response.late()
        kind = response.content_type or concrete(self.item.request.accept) or usual
        check_head(response.status, kind, response.custom_attributes)
        return Begin(Response(body, kind, response.status, response.custom_attributes))

    def last(self) -> list[Begin | More | End]:
        """Return what to send at the end; a stream without chunks still has a head."""
        return [End()] if self.begun else [self.take(b""), End()]

    def let_go(self) -> None:
        """Drop the request, which refers back to this stream: both would stay until garbage collection."""
        self.item, self.on_end = NOBODY, nothing


def streaming(value: Any) -> StreamingResponse | None:
    """Return the result of ``encode`` as a stream, or None where it is none."""
    if type(value) is Response:
        return None
    if isinstance(value, StreamingResponse):
        return value
    return StreamingResponse(cast(Chunks, value)) if isgenerator(value) or isasyncgen(value) else None
