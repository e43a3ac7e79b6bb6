"""ForkServerLink: the supervisor's side of the fork server. It starts the process and asks it for workers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from serving.ipc.channel import Channel
from serving.ipc.messages import Fork, Forked, ForkReady, pack, unpack
from serving.ipc.runtime import BEGIN, Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.ipc.wire import Frame
from serving.supervisor.launch import Launched, launch


class ForkServerLink:
    """The connection to the fork server. Requests wait in the socket while the process still imports torch. ``first``
    is a fork server that already runs.
    """

    def __init__(
        self,
        runtime: Runtime,
        board: Scoreboard,
        on_forked: Callable[[Forked], None],
        on_ready: Callable[[], None],
        first: Launched | None = None,
    ) -> None:
        self._first = first
        self._runtime = runtime
        self._board = board
        self._on_forked = on_forked
        self._on_ready = on_ready
        self._channel: Channel | None = None
        self.pid: int | None = None
        self.is_ready = False
        self._owed = 0

    @property
    def owes(self) -> bool:
        """Whether it was asked for a worker and has not reported that worker's process yet."""
        return self._owed > 0

    async def start(self) -> None:
        launched, self._first = self._first or launch(), None
        self.pid = launched.pid
        path = os.fsencode(self._runtime.path)
        socket.send_fds(launched.channel, [path.ljust(BEGIN, b"\0")], [self._board.fd])
        launched.channel.setblocking(False)
        self.is_ready = False
        self._owed = 0
        _, self._channel = await asyncio.get_running_loop().create_connection(
            lambda: Channel(self), sock=launched.channel
        )

    def fork(self, request: Fork) -> None:
        """Ask for a worker. A dead fork server loses the request; the caller asks again after the restart."""
        if self._channel is not None:
            self._owed += 1
            self._channel.send_raw([pack(request)])

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        message = unpack(frame.body)
        if isinstance(message, ForkReady):
            self.is_ready = True
            self._on_ready()
        elif isinstance(message, Forked):
            self._owed -= 1
            self._on_forked(message)

    def on_lost(self, channel: Channel) -> None:
        if channel is self._channel:
            self._channel = None
            self._owed = 0
