"""Waiting for a replica: the queue is full for new requests, not for one that a replica had accepted before it died."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator

import pytest

from serving.config.config import load
from serving.errors import QueueFull
from serving.frontend.routing.replicas import MAX_WAITERS, Replicas
from serving.ipc.channel import Channel
from serving.ipc.messages import FrontendHello, FrontendWelcome, Locate, Placement, pack, unpack
from serving.ipc.runtime import Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.ipc.wire import Frame


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short enough for a socket, unlike tmp_path
        monkeypatch.setattr(tempfile, "tempdir", folder)
        made = Runtime.create(load({}, {}))
        yield made
        made.remove()


class Supervisor:
    """Its end of the connection: it is asked where models are, and has no answer until the test gives one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def on_frame(self, channel: Channel, frame: Frame) -> None:
        self.channel, message = channel, unpack(frame.body)
        if isinstance(message, FrontendHello):
            channel.send_raw([pack(FrontendWelcome(0))])
        elif isinstance(message, Locate):
            self.asked.set()

    def on_lost(self, channel: Channel) -> None: ...


@pytest.mark.parametrize("is_known", [False, True])
def test_an_accepted_request_waits_where_a_new_one_is_refused(runtime: Runtime, is_known: bool) -> None:
    """Whether the model's placement is known, without a replica, or looked up again."""

    async def run() -> None:
        supervisor, loop = Supervisor(), asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Channel(supervisor), str(runtime.control_path))
        replicas = Replicas(runtime, Scoreboard.create())
        await replicas.start()

        def pick(accepted: bool) -> asyncio.Task[object]:
            return loop.create_task(replicas.pick("m", True, 0.0, accepted))

        first = pick(False)
        await asyncio.wait_for(supervisor.asked.wait(), 10)
        limit = MAX_WAITERS
        if is_known:
            limit = 3
            supervisor.channel.send_raw([pack(Placement("m", queue_size=limit))])
            await asyncio.wait_for(replicas.placement("m", False, 0.0), 10)
        others = [pick(False) for _ in range(limit - 1)]
        accepted, refused = pick(True), pick(False)
        with pytest.raises(QueueFull):
            await asyncio.wait_for(refused, 10)
        assert not accepted.done()
        for one in (first, accepted, *others):
            one.cancel()
        await asyncio.gather(first, accepted, *others, return_exceptions=True)
        replicas.close()
        server.close()

    asyncio.run(run())
