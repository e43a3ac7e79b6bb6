"""Control link: a worker's connection to the supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from serving.ipc.channel import Channel
from serving.ipc.messages import Message, WorkerHello, WorkerPhase, pack, unpack
from serving.ipc.wire import Frame


class ControlLink:
    """The connection on ``sock``. ``on_word`` gets what the supervisor says, ``on_lost`` its end."""

    channel: Channel

    def __init__(
        self, sock: socket.socket, on_word: Callable[[Message], None], on_lost: Callable[[Channel], None]
    ) -> None:
        self._socket = sock
        self._on_word = on_word
        self.on_lost = on_lost

    async def connect(self, hello: WorkerHello) -> None:
        loop = asyncio.get_running_loop()
        _, self.channel = await loop.create_unix_connection(lambda: Channel(self), sock=self._socket)
        self.send(hello)

    def send(self, message: WorkerHello | WorkerPhase) -> None:
        self.channel.send_raw([pack(message)])

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        self._on_word(unpack(frame.body))
