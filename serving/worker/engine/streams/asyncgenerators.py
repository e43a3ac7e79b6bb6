"""Async generators: streams whose chunks are made by async code, each pumped by a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

from serving.request import Chunk
from serving.system import log
from serving.worker.batching.items import Item
from serving.worker.engine.streams.endings import Endings
from serving.worker.engine.streams.generators import CLOSE_TIME
from serving.worker.engine.streams.parts import Part
from serving.worker.engine.streams.stream import Stream
from serving.worker.engine.streams.tasks import Tasks


class AsyncGenerators:
    """The async generators of one engine, among its ``tasks``. ``emit`` sends one part at once."""

    def __init__(self, tasks: Tasks, emit: Callable[[Item, Part], None], endings: Endings) -> None:
        self._tasks = tasks
        self._emit = emit
        self._endings = endings

    def add(self, stream: Stream) -> None:
        stream.task = self._tasks.run(stream.item, self._pump(stream), lambda: self._settle(stream))

    def wake(self, stream: Stream) -> None:
        """Let a stream go on that has room again, or end where its client has left. From any thread."""
        self._tasks.call(self._changed, stream)

    def _changed(self, stream: Stream) -> None:
        stream.room.set()
        if stream.item.cancelled and stream.task is not None and not stream.task.done():
            stream.task.cancel()
            asyncio.get_running_loop().call_later(CLOSE_TIME, self._tasks.give_up, stream.task)

    def _settle(self, stream: Stream) -> None:
        if not stream.settled:
            self._endings.abandon(stream)

    async def _pump(self, stream: Stream) -> None:
        chunks = cast("AsyncIterator[Chunk]", stream.response.pieces)
        failure: BaseException | None = None
        try:
            await self._pass_on(stream, chunks)
        except BaseException as exc:
            failure = exc
        await self._aclose(chunks)
        if stream.settled:
            return
        if failure is None:
            self._endings.finish(stream)
        elif isinstance(failure, asyncio.CancelledError):
            self._endings.abandon(stream)
        else:
            self._endings.fail(stream, failure)

    async def _pass_on(self, stream: Stream, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            self._emit(stream.item, stream.take(chunk))
            self._tasks.record_start()  # the next task in this turn of the loop has its own time
            await asyncio.sleep(0)  # a generator that never waits must give others a turn
            while not stream.flow.is_open:
                stream.room.clear()
                await stream.room.wait()

    async def _aclose(self, chunks: AsyncIterator[Chunk]) -> None:
        close = getattr(chunks, "aclose", None)
        if close is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIME):
                await close()
        except BaseException as exc:
            log.error("an async generator failed to close", exc=exc)
