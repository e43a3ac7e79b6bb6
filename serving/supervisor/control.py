"""Control: the control socket, on which HTTP workers ask where models are, model workers report their phases, and the
command line sets the log level. It is private: only this user may enter its folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from serving.ipc.channel import Channel
from serving.ipc.loglevels import LogLevels
from serving.ipc.messages import (
    Assign,
    FrontendHello,
    FrontendWelcome,
    Locate,
    Message,
    ModelsCall,
    ModelsReply,
    Overdue,
    Park,
    Placement,
    Retire,
    SetLogLevel,
    WorkerHello,
    WorkerPhase,
    pack,
    unpack,
)
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import SLOTS, Scoreboard
from serving.ipc.wire import Frame
from serving.model.model import Model


class ControlHandler(Protocol):
    """The receiver of what HTTP workers ask and model workers report."""

    def locate(self, message: Locate) -> Placement | None:
        """Return where a model is; None if that will be sent later."""
        ...

    def ask(self, message: ModelsCall, reply: Callable[[ModelsReply], None]) -> None: ...

    def on_phase(self, message: WorkerPhase) -> None: ...

    def on_overdue(self, message: Overdue) -> None: ...

    def on_cut(self, row: int, epoch: int) -> None:
        """Handle the end of a worker's control connection; usually the worker has ended, too."""
        ...

    def wants(self, row: int, epoch: int) -> bool:
        """Return whether the worker should go on living."""
        ...


class Control:
    """The control socket, with the connections of HTTP workers and model workers."""

    def __init__(self, runtime: Runtime, board: Scoreboard) -> None:
        self._runtime = runtime
        self._board = board
        self._levels = LogLevels(board.log_level)
        self._handler: ControlHandler
        self._free_slots = list(range(SLOTS))
        self._slots: dict[Channel, int] = {}
        self._interest: dict[str, set[Channel]] = {}
        self._workers: dict[tuple[int, int], Channel] = {}
        self._server: asyncio.Server | None = None
        self.frontends = 0
        """The number of HTTP workers that have ever said hello."""

    async def start(self, handler: ControlHandler) -> None:
        """Accept connections; ``handler`` is called with what comes."""
        self._handler = handler
        path = self._runtime.control_path
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Channel(self), str(path), backlog=512
        )
        os.chmod(path, 0o600)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def send_placement(self, placement: Placement) -> None:
        """Send a placement to the HTTP workers that asked for its model."""
        channels = self._interest.get(placement.model, set())
        if placement.gone:
            self._interest.pop(placement.model, None)
        for channel in channels:
            self._send(channel, placement)

    def retire(self, row: int, epoch: int) -> bool:
        """Ask a worker to finish and exit; returns False where it has not said hello."""
        return self._send_to_worker(row, epoch, Retire())

    def park(self, row: int, epoch: int) -> bool:
        """Ask a worker to move its weights to the host and wait; returns False where it is gone."""
        return self._send_to_worker(row, epoch, Park())

    def assign(self, row: int, epoch: int, model: Model) -> bool:
        """Give a model to a spare; returns False where the spare is gone."""
        return self._send_to_worker(row, epoch, Assign(model))

    def _send_to_worker(self, row: int, epoch: int, message: Message) -> bool:
        channel = self._workers.get((row, epoch))
        if channel is None:
            return False
        self._send(channel, message)
        return True

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        message = unpack(frame.body)
        if isinstance(message, FrontendHello):
            self._welcome(channel)
        elif isinstance(message, Locate):
            self._locate(channel, message)
        elif isinstance(message, ModelsCall):
            self._handler.ask(message, lambda reply: self._send(channel, reply))
        elif isinstance(message, SetLogLevel):
            self._send(channel, self._levels.reply(message))
        elif isinstance(message, Overdue):
            self._handler.on_overdue(message)
        elif isinstance(message, WorkerHello):
            self._meet(channel, message)
        elif isinstance(message, WorkerPhase):
            self._handler.on_phase(message)

    def _locate(self, channel: Channel, message: Locate) -> None:
        placement = self._handler.locate(message)
        if placement is None or not placement.gone:
            self._interest.setdefault(message.model, set()).add(channel)
        if placement is not None:
            self._send(channel, placement)

    def on_lost(self, channel: Channel) -> None:
        slot = self._slots.pop(channel, None)
        if slot is not None:
            # Its requests ended with it, so draining must not wait for them.
            self._board.slot(slot).in_flight = 0
            self._free_slots.insert(0, slot)  # the next HTTP worker goes on with the metrics of this one
        for channels in self._interest.values():
            channels.discard(channel)
        self._interest = {name: channels for name, channels in self._interest.items() if channels}
        for row, epoch in [key for key, one in self._workers.items() if one is channel]:
            del self._workers[row, epoch]
            self._handler.on_cut(row, epoch)

    def _welcome(self, channel: Channel) -> None:
        slot = self._free_slots.pop(0)
        self._slots[channel] = slot
        self.frontends += 1
        self._send(channel, FrontendWelcome(slot))

    def _meet(self, channel: Channel, hello: WorkerHello) -> None:
        self._workers[hello.row, hello.epoch] = channel
        if not self._handler.wants(hello.row, hello.epoch):
            # It was retired before it could be told so, or its fork server died before it reported the fork.
            self.retire(hello.row, hello.epoch)

    def _send(self, channel: Channel, message: Message) -> None:
        channel.send_raw([pack(message)])
