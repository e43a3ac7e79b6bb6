"""Ranks: several processes that run one model together, each with a part of it, on a GPU of its own.

Rank 0 is the worker: it takes batches, has all ranks predict each, and answers with its own output. The others are its
children. Each has one socket to rank 0, on which it hears that a batch is coming and says how it went; the batch's
tensors, and what the model exchanges, go through ``torch.distributed``. All live and die together.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from serving.errors import HandlerError
from serving.handler import Handler
from serving.ipc.faults import EXIT_STICKY, Fault
from serving.ipc.runtime import set_parent_death_signal
from serving.model.model import Model
from serving.system import log
from serving.system.signals import OTHERS, STOPS, overhear
from serving.worker.device import find_device, resolve
from serving.worker.loading.shipping import pack, unpack

EXIT_RANK = 77  # exit code of a worker that lost one of its ranks, or that is out of step with them
JOIN = 300.0  # seconds for all ranks to find each other
STEP = 5.0  # seconds that the others may take longer than rank 0 over a batch that failed
LENGTH = struct.Struct("<I")
GOOD, BAD = b"+", b"-"

_group: Group | None = None


class Group:
    """Rank 0's side. ``sockets`` lead to the others, ``meeting`` is the file where all find each other."""

    def __init__(self, sockets: list[socket.socket], pids: list[int], meeting: Path) -> None:
        self._sockets = sockets
        self._pids = pids
        self._meeting = meeting
        self._closing = False
        self._predict: Callable[[Any], Any]
        self._close: Callable[[], None]

    @property
    def size(self) -> int:
        return len(self._sockets) + 1

    def join(self, device: str) -> None:
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        join(self._meeting, 0, self.size, device)

    def lead(self, handler: Handler) -> None:
        """From now on the handler's ``predict`` and ``close`` are those of all ranks."""
        self._predict, self._close = handler.predict, handler.close
        handler.predict, handler.close = self.predict, self.close  # type: ignore[method-assign]

    def predict(self, batch: Any) -> Any:
        """Raises what rank 0 raised, else HandlerError where another one failed."""
        import torch

        parcel = pack(batch)
        self._tell(parcel.head)
        parcel.send()
        try:
            with torch.inference_mode():  # all alike, or torch does not exchange the same things in the same order
                output = self._predict(batch)
        except BaseException:
            self._hear(time.monotonic() + STEP)
            raise
        if not all(self._hear(None)):
            raise HandlerError("a rank failed where rank 0 did not; the log has more")
        return output

    def close(self) -> None:
        self._closing = True
        self._tell(b"")  # let the others go
        self._close()

    def _tell(self, head: bytes) -> None:
        for one in self._sockets:
            try:
                one.sendall(LENGTH.pack(len(head)) + head)
            except OSError:
                if not self._closing:
                    self._ends()

    def _hear(self, until: float | None) -> list[bool]:
        """How each of the others fared. Without an ``until`` the requests' own deadline bounds this: it is user code
        that is waited for."""
        found = []
        for one in self._sockets:
            if until is not None and not select.select([one], [], [], max(0.0, until - time.monotonic()))[0]:
                log.error("a rank is out of step: the group ends")
                os._exit(EXIT_RANK)
            found.append(self._word(one) == GOOD)
        return found

    def _word(self, one: socket.socket) -> bytes:
        """What a rank says. One that has ended, or is about to, ends the group: its exit code says why, and ``_watch``
        hears of that a little later than this thread sees its socket closed."""
        try:
            word = one.recv(1)
        except OSError:
            word = b""
        return word or self._ends()

    def _ends(self) -> NoReturn:
        time.sleep(STEP)
        os._exit(EXIT_RANK)

    def _watch(self) -> None:
        """Ends the worker when one of its ranks has ended."""
        poll = select.poll()
        ranks = {os.pidfd_open(pid): pid for pid in self._pids}
        for fd in ranks:
            poll.register(fd, select.POLLIN)
        while ranks:
            [(fd, _), *_] = poll.poll()
            poll.unregister(fd)
            os.close(fd)
            pid = ranks.pop(fd)
            _, status = os.waitpid(pid, 0)  # not just any child: the handler may have some of its own
            if not self._closing:
                code = os.waitstatus_to_exitcode(status)
                log.error("a rank has ended, and the worker with it", rank_pid=pid, code=code)
                os._exit(code if code > 0 else EXIT_RANK)


def begin(model: Model, meeting: Path, follow: Callable[[int, socket.socket], None]) -> None:
    """Fork the other ranks of a model that has some, while this process has one thread and no device. ``follow`` is the
    life of each."""
    global _group
    sockets: list[socket.socket] = []
    pids: list[int] = []
    leader = os.getpid()
    for rank in range(1, model.gpus):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                set_parent_death_signal(signal.SIGKILL)
                overhear((*STOPS, *OTHERS))
                if os.getppid() != leader:
                    os._exit(EXIT_RANK)
                for one in (ours, *sockets):
                    one.close()
                follow(rank, theirs)
            except BaseException as exc:
                log.error("a rank failed", exc=exc, rank=rank, model=model.name)
            finally:
                os._exit(EXIT_RANK)
        theirs.close()
        sockets.append(ours)
        pids.append(pid)
    _group = Group(sockets, pids, meeting) if pids else None


def group() -> Group | None:
    """Of this process, if it leads one."""
    return _group


def join(meeting: Path, rank: int, size: int, device: str) -> None:
    """Blocks until all are there."""
    import torch
    import torch.distributed as dist

    on_gpu = device.startswith("cuda")
    # A batch may have tensors on the host beside those on the GPU, which NCCL does not send.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=JOIN),
        device_id=torch.device(device) if on_gpu else None,  # what does not work shows here, not in the first batch
    )


def device_of(model: Model, rank: int) -> str:
    """Each rank has the GPU of its number among those that the worker sees."""
    found = resolve(model.device)
    return f"cuda:{rank}" if found.startswith("cuda") else found


def follow(model: Model, rank: int, meeting: Path, leader: socket.socket, make: Callable[[], Handler]) -> None:
    """The life of a rank but 0; never returns. ``make`` gives the handler, which is not loaded yet."""
    import torch

    handler = make()
    device = find_device(device_of(model, rank))
    device.open(model.threads, model.tf32)
    join(meeting, rank, model.gpus, device.name)
    pid = os.getpid()
    handler.load(Path(model.path), device.name, **model.options)
    while os.getpid() == pid and (head := receive(leader)):
        batch = unpack(head, device.name)
        try:
            with torch.inference_mode():
                handler.predict(batch)
            if os.getpid() == pid:
                leader.sendall(GOOD)
        except Exception as exc:
            if os.getpid() != pid:
                break
            log.error("a rank failed in predict", exc=exc, rank=rank, model=model.name)
            # Which GPU is broken the driver tells: the supervisor would take it for rank 0's.
            if (fault := device.fault(exc)) in (Fault.STICKY, Fault.HARDWARE):
                os._exit(EXIT_STICKY if fault is Fault.STICKY else EXIT_RANK)
            leader.sendall(BAD)
    if os.getpid() == pid:  # else the handler has forked this one, and it has come back
        handler.close()
    os._exit(0)


def receive(leader: socket.socket) -> bytes:
    """The next batch's head; empty where there is none to come."""
    size = read_exactly(leader, LENGTH.size)
    return read_exactly(leader, LENGTH.unpack(size)[0]) if size else b""


def read_exactly(source: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = source.recv(count - len(found))
        if not part:
            return b""
        found += part
    return found
