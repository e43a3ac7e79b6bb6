"""Sides: the requests of one worker, and the two threads that take and answer them."""

from __future__ import annotations

from serving.config.config import Config
from serving.ipc.scoreboard import Row
from serving.session import SessionAddress
from serving.worker.batching.items import Item
from serving.worker.io.connections import Connections
from serving.worker.io.engineside import EngineSide
from serving.worker.io.gate import Gate
from serving.worker.io.iothread import IoThread
from serving.worker.io.loopside import LoopSide
from serving.worker.io.reading import SocketReader
from serving.worker.io.sessioncalls import SessionCalls


class Sides:
    """What both threads share: the requests under way and their sessions; and what each of them does about them.

    A request may take ``timeout`` seconds. Sessions get their ids by ``address``.
    """

    def __init__(self, config: Config, timeout: float, row: Row, address: SessionAddress, gate: Gate) -> None:
        items: dict[int, Item] = {}
        self.io = IoThread()
        self.connections = Connections()
        self.sessions = SessionCalls(config, row, address, items)
        self.loop = LoopSide(config, timeout, row, gate, items, self.sessions, self.io)
        self.engine = EngineSide(row, gate, items, self.sessions, self.loop, self.connections, self.io)
        self.reading = SocketReader(self.engine, self.loop)
