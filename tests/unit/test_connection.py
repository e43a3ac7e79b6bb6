"""An answer in pieces that begins in the tick in which nobody wants it any more: the replica must hear of that."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from serving.frontend.receiving import ClientGone, watch
from serving.frontend.routing.connection import Connection
from serving.ipc.channel import Channel
from serving.ipc.messages import Address
from serving.ipc.scoreboard import SIZE, Scoreboard
from serving.ipc.wire import Frame, FrameKind, RequestHead
from serving.request import Response
from serving.worker.io.replies import packed


class Replica:
    """Its end of the connection."""

    def __init__(self) -> None:
        self.kinds: list[int] = []
        self.channel: Channel | None = None
        self.heard = asyncio.Event()
        self.lost = asyncio.Event()

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        self.channel = channel
        self.kinds.append(frame.kind)
        self.heard.set()

    def on_lost(self, channel: Channel) -> None:
        self.lost.set()


async def begun(folder: Path, lead: int) -> list[int]:
    """What the replica hears where the client leaves ``lead`` turns of the loop before the head."""
    replica, path = Replica(), str(folder / f"replica{lead}")
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Channel(replica), path)
    fd = memfd()
    row = Scoreboard(fd).row(0)
    connection = Connection(Address(0, 1, path), row, lambda _: None)
    await connection.open()
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def invoke() -> object:
        call = connection.call(RequestHead(1.0, "r"))
        try:
            return await call.reply
        except BaseException:
            connection.abandon_reply(call)
            raise
        finally:
            connection.forget(call)

    async def request() -> object:
        try:
            return await watch(invoke(), receive)
        except ClientGone:
            return None

    task = asyncio.ensure_future(request())
    await replica.heard.wait()
    gone.set()
    for _ in range(lead):
        await asyncio.sleep(0)
    assert connection._channel is not None
    id = next(iter(connection._pending), 0)
    if id:
        head, body = packed(Response(b"x", "a/b"))
        connection.on_frame(connection._channel, Frame(FrameKind.BEGIN, id, head, body))
    streamed = await task
    connection.close()
    async with asyncio.timeout(10):
        await replica.lost.wait()  # so that it has heard all that was sent before
    server.close()
    os.close(fd)
    return replica.kinds if streamed is None else [FrameKind.CANCEL]


def memfd() -> int:
    fd = os.memfd_create("board")
    os.ftruncate(fd, SIZE)
    return fd


def test_a_stream_that_begins_as_its_client_leaves_is_cancelled(tmp_path: Path) -> None:
    heard = {lead: FrameKind.CANCEL in asyncio.run(begun(tmp_path, lead)) for lead in range(5)}
    assert all(heard.values()), f"turns before, and whether it was cancelled: {heard}"
