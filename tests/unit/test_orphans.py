"""Numbers of processes: whose end is kept for a worker that is not known yet, and whose is not."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from serving.ipc.channel import Channel
from serving.ipc.messages import Fork, Forked, ForkReady, pack
from serving.ipc.runtime import BEGIN, Runtime
from serving.ipc.scoreboard import Scoreboard
from serving.ipc.wire import Frame
from serving.supervisor import processes
from serving.supervisor.forkserver import ForkServerLink
from serving.supervisor.launch import Launched


class Other:
    """The fork server's end."""

    def on_frame(self, channel: Channel, frame: Frame) -> None: ...

    def on_lost(self, channel: Channel) -> None: ...


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 the caller bounds it
        await asyncio.sleep(0.001)


def test_a_fork_server_owes_what_it_was_asked_for_until_it_has_answered_or_ended(tmp_path: Path) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        told: list[Forked] = []
        link = ForkServerLink(Runtime(tmp_path), Scoreboard.create(), told.append, lambda: None, Launched(1, ours))
        await link.start()
        _, fds, _, _ = socket.recv_fds(theirs, BEGIN, 1)
        os.close(fds[0])
        theirs.setblocking(False)
        _, channel = await asyncio.get_running_loop().create_connection(lambda: Channel(Other()), sock=theirs)
        channel.send_raw([pack(ForkReady())])
        assert not link.owes
        for row in (1, 2):
            link.fork(Fork(row, 1))
        assert link.owes
        channel.send_raw([pack(Forked(1, 1, 100))])
        await until(lambda: len(told) == 1)
        assert link.owes
        channel.send_raw([pack(Forked(2, 1, 101))])
        await until(lambda: len(told) == 2)
        assert not link.owes
        link.fork(Fork(3, 1))
        channel.close()
        await until(lambda: not link.owes)

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_number_is_a_childs_until_it_is_reaped() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0)
    assert processes.is_child(pid), "it runs"
    os.write(write, b"x")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert processes.is_child(pid), "it has ended"
    os.waitpid(pid, 0)
    assert not processes.is_child(pid)
    for fd in (read, write):
        os.close(fd)
