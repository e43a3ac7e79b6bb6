"""The control socket: HTTP workers ask where a model is, model workers say how far they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from serving.channel import Channel
from serving.messages import (
    FrontendHello,
    FrontendWelcome,
    Locate,
    Message,
    Overdue,
    Placement,
    Retire,
    WorkerHello,
    WorkerPhase,
    pack,
    unpack,
)
from serving.runtime import Runtime
from serving.scoreboard import SLOTS, Scoreboard
from serving.wire import Frame


class Control:
    """``locate`` gives the placement of a model; ``on_phase`` and ``on_overdue`` hear what workers report;
    a worker of a row and epoch that nobody ``knows`` is sent away."""

    def __init__(
        self,
        runtime: Runtime,
        board: Scoreboard,
        locate: Callable[[str], Placement],
        on_phase: Callable[[WorkerPhase], None],
        on_overdue: Callable[[Overdue], None],
        knows: Callable[[int, int], bool],
    ) -> None:
        self._runtime = runtime
        self._board = board
        self._locate = locate
        self._on_phase = on_phase
        self._on_overdue = on_overdue
        self._knows = knows
        self._free_slots = list(range(SLOTS))
        self._slots: dict[Channel, int] = {}
        self._interest: dict[str, set[Channel]] = {}
        self._workers: dict[tuple[int, int], Channel] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        path = self._runtime.control_path
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Channel(self), str(path), backlog=512
        )
        os.chmod(path, 0o600)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def publish(self, model: str) -> None:
        """Tell the HTTP workers that asked for this model how it stands now."""
        for channel in self._interest.get(model, ()):
            self._send(channel, self._locate(model))

    def retire(self, row: int, epoch: int) -> bool:
        """Ask a worker to finish and go; False where it never said hello."""
        channel = self._workers.get((row, epoch))
        if channel is None:
            return False
        self._send(channel, Retire())
        return True

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        message = unpack(frame.head)
        if isinstance(message, FrontendHello):
            self._welcome(channel)
        elif isinstance(message, Locate):
            self._interest.setdefault(message.model, set()).add(channel)
            self._send(channel, self._locate(message.model))
        elif isinstance(message, Overdue):
            self._on_overdue(message)
        elif isinstance(message, WorkerHello):
            self._workers[message.row, message.epoch] = channel
            if not self._knows(message.row, message.epoch):
                self.retire(message.row, message.epoch)  # forked by a fork server that died before it could say so
        elif isinstance(message, WorkerPhase):
            self._on_phase(message)

    def on_lost(self, channel: Channel) -> None:
        slot = self._slots.pop(channel, None)
        if slot is not None:
            # Its requests died with it; the drain must not wait for them.
            self._board.slot(slot).in_flight = 0
            self._free_slots.append(slot)
        for channels in self._interest.values():
            channels.discard(channel)
        self._workers = {key: one for key, one in self._workers.items() if one is not channel}

    def _welcome(self, channel: Channel) -> None:
        slot = self._free_slots.pop(0)
        self._slots[channel] = slot
        self._send(channel, FrontendWelcome(slot))

    def _send(self, channel: Channel, message: Message) -> None:
        channel.send_raw([pack(message)])
