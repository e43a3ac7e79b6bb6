"""Intake: a worker's connections, from the first to the last. It never touches user code.

Two threads take frames of HTTP workers and send answers: the engine's, by the EngineSide, and the loop's, by the
LoopSide. The SocketReader decides which of them reads. What the supervisor says comes by the ControlLink.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from serving.config.config import Config
from serving.ipc.channel import Channel
from serving.ipc.messages import Assign, Message, Park, Retire, WorkerHello, WorkerPhase, pack
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Phase, Row
from serving.model.model import Model
from serving.session import SessionAddress
from serving.system import log
from serving.worker.batching.batcher import Batcher
from serving.worker.engine.streams.streams import Streams
from serving.worker.io.beat import Beat
from serving.worker.io.controllink import ControlLink
from serving.worker.io.gate import Gate, GateState
from serving.worker.io.sides import Sides
from serving.worker.parking import Parking


class Intake:
    """The connections of one worker; ``control`` is the socket to the supervisor. Call all of it on the loop's thread.

    ``measure``, ``measure_idle`` and ``look`` are those of Beat.
    """

    def __init__(
        self,
        model: Model,
        config: Config,
        runtime: Runtime,
        row: Row,
        epoch: int,
        control: socket.socket,
        measure: Callable[[], None],
        measure_idle: Callable[[], None],
        look: Callable[[float], None] = lambda now: None,
    ) -> None:
        self.parking = Parking()
        self._row = row
        self._epoch = epoch
        self._path = str(runtime.worker_path(row.index, epoch))
        self._gate = Gate()
        self.sides = sides = Sides(
            config, model.timeout, row, SessionAddress(runtime.instance, row.index, epoch), self._gate
        )
        self.io, self.reading, self.sessions = sides.io, sides.reading, sides.sessions
        self.on_frame = sides.loop.on_frame  # of HTTP workers, as long as the SocketReader does not read
        self._beat = Beat(row, sides.loop, measure, measure_idle, look)
        self._supervisor = ControlLink(control, self._on_word, self._on_supervisor_lost)
        self.send = self._supervisor.send
        self._server: asyncio.Server | None = None
        self._listening: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect to the supervisor, before anything else."""
        self.reading.start(self.io.loop)
        await self._supervisor.connect(WorkerHello(self._row.index, self._epoch))
        self._beat.start()

    # Connections of HTTP workers.

    def open(self, batcher: Batcher, streams: Streams, ready: WorkerPhase) -> None:
        """Take requests from now on; ``ready`` tells the supervisor."""
        self._gate.open_for(batcher)
        self.sides.loop.websockets.streams = streams
        self.reading.watch(False)
        self._listening = self.io.loop.create_task(self._begin(ready))

    async def _begin(self, ready: WorkerPhase) -> None:
        try:
            await self._listen()
        except Exception as exc:
            # Nobody could reach this replica, and the supervisor would wait for it in vain.
            log.error("the worker cannot listen", exc=exc)
            os._exit(70)
        if self._gate.state is GateState.OPENING:  # it may have been told to retire meanwhile
            self._row.phase = Phase.READY
            self._gate.become(GateState.OPEN)
            self.send(ready)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self.io.loop.create_unix_server(
                lambda: Channel(self, self._meet), self._path, backlog=256
            )

    def _meet(self, channel: Channel) -> None:
        self.sides.connections.open.add(channel)
        channel.let_others_send()
        self.io.loop.call_soon(self.reading.add, channel)  # its transport begins to read after this

    def on_lost(self, channel: Channel) -> None:
        self.reading.remove(channel)
        self.sides.connections.remove(channel)
        self.sides.loop.cancel_all(channel)

    def part(self) -> None:
        """Close the connections of HTTP workers, end all sessions and take nothing until ``open``."""
        self.sessions.forget()
        self._gate.become(GateState.CLOSED)
        self.sides.connections.close()

    def flush(self) -> None:
        """Close all connections after their pending writes; ``flushed`` of the connections is set at the end."""
        self._gate.become(GateState.ENDING)
        self.sides.connections.close(self._supervisor.channel)

    # The supervisor's words.

    def _on_word(self, message: Message) -> None:
        if isinstance(message, Assign):
            self.parking.take()
        elif isinstance(message, Park):
            self.parking.ask()
            self._retire()
        elif isinstance(message, Retire) and not (self.parking.dismiss() and self._gate.state is GateState.CLOSED):
            self._retire()

    def _retire(self) -> None:
        """Answer what was taken, and take no more; end at once where there is no engine."""
        if self._gate.state is GateState.CLOSED:
            os._exit(0)
        if self._gate.state is GateState.ENDING:
            return
        self._gate.become(GateState.RETIRING)
        self._row.phase = Phase.RETIRING
        self.reading.watch(True)
        self.sides.loop.go_away()
        for channel in self.sides.connections.open:
            channel.send_raw([pack(Retire())])
        self._gate.batcher.close()

    def _on_supervisor_lost(self, channel: Channel) -> None:
        if self._gate.state is not GateState.ENDING:
            os._exit(71)  # no supervisor, no worker
        self.sides.connections.remove(channel)
