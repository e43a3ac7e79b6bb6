"""Builds what the contract tests speak to: real objects joined by real sockets, on a loop whose clock can be turned.

What stands on the other side of a socket the test plays: ``Worker`` is a replica, ``Desk`` decides for a supervisor,
``Client`` sends requests over HTTP. They say what the test wants in the order in which it wants it, and note what they
hear. Nothing here waits for time to pass: ``settle`` lets what is on its way arrive, ``Loop.turn`` brings the future.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import h11
import msgspec
from hypothesis import Phase, settings
from uvicorn import Config as UvicornConfig
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from serving.config.config import Config, load
from serving.deadline import Deadline
from serving.frontend.app import App
from serving.frontend.drain import HttpServer
from serving.frontend.http.protocol import HttpProtocol
from serving.frontend.routing.connection import Connection
from serving.frontend.routing.expiries import Expiries
from serving.frontend.routing.invocations import Invocations
from serving.frontend.routing.replicas import Replicas
from serving.frontend.server import http_protocol
from serving.handler import Handler
from serving.ipc.channel import Channel
from serving.ipc.messages import (
    Address,
    Locate,
    Message,
    ModelsCall,
    ModelsReply,
    Overdue,
    Placement,
    Problem,
    WorkerPhase,
    pack,
    unpack,
)
from serving.ipc.messages import Retire as RetireWord
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.ipc.wire import CREDIT, Frame, FrameKind, ReplyHead, RequestHead
from serving.model.model import DEFAULT_MODEL, Model
from serving.request import Body, Request
from serving.supervisor.control import Control
from serving.worker.batching.batcher import Batcher
from serving.worker.engine.engine import Engine
from serving.worker.io.intake import Intake
from serving.worker.rules import Rules

TURNS = 20  # of the loop, more than anything here takes to arrive: the kernel hands over at once
TIMEOUT = 60.0  # seconds that a request may take
FOLDER = "/dev/shm"  # for sockets, which need no disk
LATER = 24 * 3600.0  # seconds after which every timer has had its turn

Result = TypeVar("Result")
_encode = msgspec.msgpack.Encoder().encode
_request_head = msgspec.msgpack.Decoder(RequestHead).decode


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set ahead; ``complaints`` is what nobody caught."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.complaints: list[dict[str, Any]] = []
        super().__init__()
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        return super().time() + self.ahead

    def pass_by(self, seconds: float) -> None:
        """So much time goes by; what is due then happens as soon as the loop has its turn."""
        self.ahead += seconds

    async def turn(self, seconds: float) -> None:
        """The same, and it has happened."""
        self.pass_by(seconds)
        await settle()


def the_loop() -> Loop:
    return cast(Loop, asyncio.get_running_loop())


async def settle(turns: int = TURNS) -> None:
    """Let what is on its way arrive, and what comes of that."""
    for _ in range(turns):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end. Nothing may be left behind: no task that goes on, no error that nobody caught."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        result = runner.run(_with_nothing_left(work))
        assert cast(Loop, runner.get_loop()).complaints == []
    return result


async def _with_nothing_left(work: Coroutine[Any, Any, Result]) -> Result:
    result = await work
    await settle()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"these tasks go on: {left}"
    return result


def orders(examples: int, steps: int) -> settings:
    """How a machine of hypothesis looks for orders: the same ones each time, and what fails is shown as it is found."""
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=examples, stateful_step_count=steps, derandomize=True, deadline=None, phases=phases)


def alive(*kinds: type) -> int:
    """How many objects of these kinds there are, garbage left out."""
    gc.collect()
    return sum(type(one) in kinds for one in gc.get_objects())


class Worker:
    """A replica as HTTP workers know it. The test says what it answers; ``frames`` are what it has heard, in order."""

    def __init__(self, board: Scoreboard, row: int, epoch: int, path: Path) -> None:
        self.address = Address(row, epoch, str(path))
        self.row = board.row(row)
        self.row.claim(epoch)
        self.row.pid = 1_000_000 + epoch
        self.frames: list[Frame] = []
        self.channels: list[Channel] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> Worker:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Channel(self, self.channels.append), self.address.path)
        return self

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        self.frames.append(frame)

    def on_lost(self, channel: Channel) -> None:
        self.channels.remove(channel)

    # What it has heard.

    @property
    def asked(self) -> list[int]:
        """Ids of the requests and conversations, in order."""
        return [frame.id for frame in self.frames if frame.kind in (FrameKind.REQUEST, FrameKind.OPEN)]

    def heads(self) -> list[RequestHead]:
        return [_request_head(frame.head) for frame in self.frames if frame.kind == FrameKind.REQUEST]

    @property
    def cancelled(self) -> list[int]:
        """Ids that nobody waits for, as far as it was told."""
        return [frame.id for frame in self.frames if frame.kind == FrameKind.CANCEL]

    # What it says; on a connection that is gone it says nothing.

    def send(self, kind: FrameKind, id: int, head: bytes = b"", body: Body = b"") -> None:
        for channel in self.channels:
            channel.send(kind, id, head, body)

    def reply(self, id: int, body: Body = b"fine", **head: Any) -> None:
        self.send(FrameKind.REPLY, id, _encode(ReplyHead(**{"status": 200, "content_type": "text/plain"} | head)), body)

    def fail(self, id: int, status: int = 400, code: str = "bad_request") -> None:
        self.send(FrameKind.REPLY, id, _encode(ReplyHead(status, code=code)), b"no")

    def begin(self, id: int, body: bytes = b"first ") -> None:
        self.send(FrameKind.BEGIN, id, _encode(ReplyHead(200, "text/plain")), body)

    def piece(self, id: int, body: bytes = b"piece ") -> None:
        self.send(FrameKind.CHUNK, id, b"", body)

    def end(self, id: int) -> None:
        self.send(FrameKind.END, id)

    def credit(self, id: int, count: int) -> None:
        self.send(FrameKind.CREDIT, id, CREDIT.pack(count))

    def give_back(self, id: int) -> None:
        self.send(FrameKind.RETURN, id)

    def retire(self) -> None:
        for channel in self.channels:
            channel.send_raw([pack(RetireWord())])

    def die(self, *running: int) -> None:
        """Its process ends while its code works on these."""
        if running:
            self.row.start(running, 1.0)
        self.row.pid = 0
        for channel in list(self.channels):
            channel.abort()
        self.close()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def leave(self) -> None:
        """The end of a test."""
        self.close()
        for channel in list(self.channels):
            channel.abort()


class Peer:
    """One end of a control connection, an HTTP worker's or a model worker's. ``heard`` are the words that came."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.is_cut = False
        self._channel: Channel | None = None

    async def connect(self, path: Path) -> Peer:
        loop = asyncio.get_running_loop()
        _, self._channel = await loop.create_unix_connection(lambda: Channel(self), str(path))
        return self

    async def take(self, sock: socket.socket) -> Peer:
        """Speak on a socket that is connected already."""
        loop = asyncio.get_running_loop()
        _, self._channel = await loop.create_unix_connection(lambda: Channel(self), sock=sock)
        return self

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        self.heard.append(unpack(frame.body))

    def on_lost(self, channel: Channel) -> None:
        self.is_cut = True

    def say(self, message: Message) -> None:
        assert self._channel is not None
        self._channel.send_raw([pack(message)])

    def cut(self) -> None:
        if self._channel is not None:
            self._channel.abort()


class Asker:
    """An HTTP worker as a replica knows it. ``heard`` are the frames that came, by the id of what they are about."""

    def __init__(self) -> None:
        self.heard: dict[int, list[Frame]] = {}
        self.has_left = False
        self._channel: Channel | None = None

    async def connect(self, path: Path) -> Asker:
        loop = asyncio.get_running_loop()
        _, self._channel = await loop.create_unix_connection(lambda: Channel(self), str(path))
        return self

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        self.heard.setdefault(frame.id, []).append(frame)

    def on_lost(self, channel: Channel) -> None:
        self.has_left = True

    def send(self, kind: FrameKind, id: int, head: bytes = b"", body: Body = b"") -> None:
        assert self._channel is not None
        self._channel.send(kind, id, head, body)

    def leave(self) -> None:
        self.has_left = True
        if self._channel is not None:
            self._channel.abort()


class Replica:
    """A model worker but for its process: intake, batcher and engine. Whoever has it takes the engine's steps."""

    def __init__(self, folder: Path, handler: Handler, queue_size: int, **settings: Any) -> None:
        self.board = Scoreboard.create()
        self.row = self.board.row(1)
        self.row.claim(1)
        self.path = Runtime(folder).worker_path(1, 1)
        self.supervisor = Peer()
        ours, self._theirs = socket.socketpair()
        for one in (ours, self._theirs):
            one.setblocking(False)
        model = Model(DEFAULT_MODEL, "/m", "/m/code", "a:B", TIMEOUT, 1, "cpu", 1, queue_size)
        config = msgspec.structs.replace(CONFIG, **settings)
        self.intake = Intake(model, config, Runtime(folder), self.row, 1, ours, lambda: None, lambda: None)
        sessions, bell = self.intake.sessions, self.intake.reading
        self.batcher = Batcher(handler.policy, queue_size, bell=bell, is_awaited=lambda: sessions.are_waited_for)
        self.engine = Engine(
            handler, self.batcher, self.row, self.intake.sides.engine.deliver, Rules.of(config, TIMEOUT)
        )

    async def open(self) -> None:
        self.intake.io.loop = asyncio.get_running_loop()
        await self.supervisor.take(self._theirs)
        await self.intake.connect()
        self.intake.open(self.batcher, self.engine.streams, WorkerPhase(1, 1, "ready"))
        await settle()

    def step(self) -> None:
        """One step of the engine, between two turns of the loop: it would run on a thread of its own."""
        self.engine.step()
        if self.engine.streams.is_async:
            self.engine.streams.go_on(0.0)

    async def close(self) -> None:
        """Leave in good order: a worker that finds its supervisor gone ends the process."""
        self.intake.flush()
        await settle()
        if self.intake._server is not None:
            self.intake._server.close()

    def end(self) -> None:
        """Behind ``close``, when no loop runs: that of the handler's async code is closed."""
        self.engine.streams.close()


class Desk:
    """Decides for a supervisor as the test wants. ``words`` are what it has heard, in order; ``placements`` what it
    tells of each model, None as long as it keeps that to itself."""

    def __init__(self) -> None:
        self.words: list[Message] = []
        self.cuts: list[tuple[int, int]] = []
        self.placements: dict[str, Placement | None] = {}
        self.replies: list[Callable[[ModelsReply], None]] = []
        self.wanted: Callable[[int, int], bool] = lambda row, epoch: True

    def locate(self, message: Locate) -> Placement | None:
        self.words.append(message)
        return self.placements.get(message.model, Placement(message.model, gone=True, problem=NOT_FOUND))

    def ask(self, message: ModelsCall, reply: Callable[[ModelsReply], None]) -> None:
        self.words.append(message)
        self.replies.append(reply)

    def on_phase(self, message: WorkerPhase) -> None:
        self.words.append(message)

    def on_overdue(self, message: Overdue) -> None:
        self.words.append(message)

    def on_cut(self, row: int, epoch: int) -> None:
        self.cuts.append((row, epoch))

    def wants(self, row: int, epoch: int) -> bool:
        return self.wanted(row, epoch)

    @property
    def overdue(self) -> list[tuple[int, int]]:
        return [(one.row, one.epoch) for one in self.words if isinstance(one, Overdue)]


NOT_FOUND = Problem(404, "model_not_found", "no such model")


class House:
    """One server without its processes: a scoreboard, the supervisor's control socket, workers that the test plays."""

    def __init__(self, path: Path) -> None:
        self.runtime = Runtime(path)
        self.board = Scoreboard.create()
        self.desk = Desk()
        self.control = Control(self.runtime, self.board)
        self.workers: list[Worker] = []
        self._epoch = 0

    async def worker(self) -> Worker:
        """One more, in a row of its own; nobody knows it before it is placed."""
        self._epoch += 1
        row = self._epoch
        one = Worker(self.board, row, self._epoch, self.runtime.worker_path(row, self._epoch))
        self.workers.append(await one.start())
        return one

    def place(self, *workers: Worker, model: str = DEFAULT_MODEL, **more: Any) -> None:
        """Say where a model lives, to those that want to know and to those that will."""
        known = {"timeout": TIMEOUT, "queue_size": 100, "capacity": 1}
        placement = Placement(model, [one.address for one in workers], **(known | more))
        self.desk.placements[model] = placement
        self.control.send_placement(placement)

    def remove(self, model: str = DEFAULT_MODEL, problem: Problem | None = None) -> None:
        """Say that a model is gone, and why; who asks anew hears that there is none."""
        self.desk.placements.pop(model, None)
        self.control.send_placement(Placement(model, gone=True, problem=problem))


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    with tempfile.TemporaryDirectory(prefix="c-", dir=FOLDER) as folder:
        built = House(Path(folder))
        await built.control.start(built.desk)
        try:
            yield built
        finally:
            for worker in built.workers:
                worker.leave()
            built.control.close()
            await settle()


@asynccontextmanager
async def connected(
    on_change: Callable[[Connection], None] = lambda _: None,
) -> AsyncIterator[tuple[Connection, Worker]]:
    """A connection and the replica at its other end."""
    with tempfile.TemporaryDirectory(prefix="c-", dir=FOLDER) as folder:
        board = Scoreboard.create()
        worker = await Worker(board, 1, 1, Path(folder) / "worker").start()
        connection = Connection(worker.address, worker.row, on_change)
        await connection.open()
        await settle()
        try:
            yield connection, worker
        finally:
            connection.close()
            worker.leave()
            await settle()


class Office:
    """An HTTP worker behind its doors: it knows the models and sends requests to them."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.replicas = Replicas(house.runtime, house.board)
        self.invocations = Invocations(self.replicas, TIMEOUT, house.runtime.instance, sessions=True)
        self.invocations.clock = the_loop().time

    def request(self, model: str = DEFAULT_MODEL, seconds: float = TIMEOUT, **sagemaker: str) -> Request:
        names = {name.replace("_", "-"): value for name, value in sagemaker.items()}
        deadline = Deadline(the_loop().time() + seconds)
        return Request(b"body", "text/plain", "", "a-request", deadline, model, names)


@asynccontextmanager
async def office() -> AsyncIterator[Office]:
    async with house() as built:
        one = Office(built)
        await one.replicas.start()
        try:
            yield one
        finally:
            one.replicas.close()
            await settle()


class Client:
    """One client's connection. It reads what is answered when it is asked for that, as a real parser understands it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.has_left = False
        self.has_ended = False

    def half_close(self) -> None:
        """Send no more, and read on."""
        if not self.has_left:
            self._sock.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        """What nobody reads any more is lost."""
        if not self.has_left:
            with contextlib.suppress(ConnectionError):
                self._sock.sendall(data)

    def leave(self) -> None:
        """Go without a word."""
        if not self.has_left:
            self.has_left = True
            self._sock.close()

    def read(self) -> bytes:
        """All that is there; behind the last of all comes ``b"END"``."""
        found = b""
        while not (self.has_left or self.has_ended):
            try:
                data = self._sock.recv(1 << 20)
            except BlockingIOError:
                return found
            except ConnectionResetError:
                data = b""
            if not data:
                self.has_ended = True
                return found + b"END"
            found += data
        return found


def answers(data: bytes) -> list[tuple[int, bytes, bool]]:
    """Status, body and whether it is whole, of each answer in what a client has read."""
    found: list[tuple[int, bytes, bool]] = []
    has_ended = data.endswith(b"END")
    rest = data
    while rest.endswith(b"END"):
        rest = rest.removesuffix(b"END")
    while rest:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(rest)
        status, body, whole = 0, b"", False
        try:
            while (event := parser.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    whole = True
                    break
        except h11.RemoteProtocolError as exc:
            raise AssertionError(f"no answer: {rest!r}") from exc
        found.append((status, body, whole))
        rest = parser.trailing_data[0] if whole else b""
    assert has_ended or all(whole for _, _, whole in found), "an answer that is not whole, on a connection that lives"
    return found


class Door:
    """An HTTP worker with its doors open: the whole application on real connections."""

    def __init__(self, house: House, app: App, protocol: type[HttpProtocol], config: UvicornConfig) -> None:
        self.house = house
        self.app = app
        self._protocol = protocol
        self._config = config
        self._state = ServerState()
        self._lifespan = LifespanOn(config)
        self._stopping: asyncio.Task[None] | None = None
        self._clients: list[Client] = []

    async def open(self) -> None:
        thresholds = gc.get_threshold()
        await self._lifespan.startup()
        gc.set_threshold(*thresholds)
        gc.unfreeze()  # that is for a process that does nothing else
        assert not self._lifespan.should_exit

    async def client(self) -> Client:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        make = lambda: self._protocol(self._config, self._state, self._lifespan.state, loop)  # noqa: E731
        await loop.connect_accepted_socket(make, ours)
        self._clients.append(Client(theirs))
        return self._clients[-1]

    def stop(self) -> None:
        """The time to finish is over: what is left is told so."""
        if self._stopping is None:
            self.house.board.give_up()
            server = HttpServer(self._config, self.app.in_flight, self.app.must_end, 25.0)
            server.server_state, server.servers, server.lifespan = self._state, [], self._lifespan
            self._stopping = asyncio.get_running_loop().create_task(server.shutdown())

    @property
    def in_flight(self) -> int:
        return self.house.board.in_flight()

    @property
    def holds_nothing(self) -> bool:
        """Whether no body is counted as there: only then one of any size is taken."""
        if not self.app.bodies.take(1 << 60):
            return False
        self.app.bodies.give(1 << 60)
        return True

    async def close(self) -> None:
        for client in self._clients:
            client.leave()
        await settle()
        if self._stopping is None:
            await self._lifespan.shutdown()
        while self._stopping is not None and not self._stopping.done():
            await the_loop().turn(0.2)


@asynccontextmanager
async def door(**settings: Any) -> AsyncIterator[Door]:
    async with house() as built:
        config = msgspec.structs.replace(CONFIG, **settings)
        app = App(config, built.runtime, built.board)
        uvicorn = copy.copy(UVICORN)
        uvicorn.loaded_app = app
        clock = the_loop().time
        app.endpoint.clock, app.endpoint.expiries, app.endpoint.invocations.clock = clock, Expiries(clock), clock
        one = Door(built, app, http_protocol(app), uvicorn)
        await one.open()
        try:
            yield one
        finally:
            await one.close()


async def learn(one: Door) -> None:
    """Have the door know where its model is: until then all goes another way."""
    worker, client = await one.house.worker(), await one.client()
    one.house.place(worker)
    client.send(post())
    await settle()
    worker.reply(worker.asked[0])
    await settle()
    assert answers(client.read()) == [(200, b"fine", True)]
    client.leave()


async def nothing(scope: Any, receive: Any, send: Any) -> None: ...


CONFIG: Config = load({"SERVING_HTTP_WORKERS": "1"})
UVICORN = UvicornConfig(
    nothing, lifespan="on", log_config=None, ws="none", timeout_keep_alive=90, timeout_graceful_shutdown=1
)
UVICORN.load()


def post(body: bytes = b"body", path: str = "/invocations", *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", "content-type: text/plain", *lines, f"content-length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
