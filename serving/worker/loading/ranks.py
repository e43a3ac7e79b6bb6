"""Ranks: several processes that run one model together, each with a part of it, on a GPU of its own.

Rank 0 is the worker: it takes batches, has all ranks predict each, and answers with its own output. The other ranks are
its children. Each has a socket to rank 0, for the head of each batch and for its result, good or bad; the batch's
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
from serving.system.signals import OTHERS, STOPS, ignore_signals
from serving.worker.device import find_device, resolve
from serving.worker.loading.shipping import pack, unpack

EXIT_RANK = 77  # exit code of a worker that lost one of its ranks, or that is out of step with them
JOIN = 300.0  # seconds for all ranks to find each other
STEP = 5.0  # seconds that other ranks may take longer than rank 0 for a failed batch
LENGTH = struct.Struct("<I")
GOOD, BAD = b"+", b"-"

_group: Group | None = None


class Group:
    """Rank 0's side. ``sockets`` lead to the other ranks, ``meeting`` is the file through which all find each other."""

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
        """Replace the handler's ``predict`` and ``close`` by those of all ranks."""
        self._predict, self._close = handler.predict, handler.close
        handler.predict, handler.close = self.predict, self.close  # type: ignore[method-assign]

    def predict(self, batch: Any) -> Any:
        """Predict on all ranks. Raises what rank 0 raised, else HandlerError where another rank failed."""
        import torch

        parcel = pack(batch)
        self._send_head(parcel.head)
        parcel.send()
        try:
            with torch.inference_mode():  # on all ranks, or torch would exchange other things in another order
                output = self._predict(batch)
        except BaseException:
            self._receive_results(time.monotonic() + STEP)
            raise
        if not all(self._receive_results(None)):
            raise HandlerError("a rank failed where rank 0 did not; the log has more")
        return output

    def close(self) -> None:
        self._closing = True
        self._send_head(b"")  # an empty head ends the other ranks
        self._close()

    def _send_head(self, head: bytes) -> None:
        for one in self._sockets:
            try:
                one.sendall(LENGTH.pack(len(head)) + head)
            except OSError:
                if not self._closing:
                    self._ends()

    def _receive_results(self, until: float | None) -> list[bool]:
        """Return whether each of the other ranks succeeded. Ends the group where one has not answered by ``until``.

        Without ``until`` the requests' own deadline bounds the wait, since it is for user code.
        """
        found = []
        for one in self._sockets:
            if until is not None and not select.select([one], [], [], max(0.0, until - time.monotonic()))[0]:
                log.error("a rank is out of step: the group ends")
                os._exit(EXIT_RANK)
            found.append(self._word(one) == GOOD)
        return found

    def _word(self, one: socket.socket) -> bytes:
        """Return a rank's result byte. A rank that has ended, or is about to, ends the group.

        Its exit code says why; ``_watch`` gets that a little later than this thread sees the socket closed.
        """
        try:
            word = one.recv(1)
        except OSError:
            word = b""
        return word or self._ends()

    def _ends(self) -> NoReturn:
        time.sleep(STEP)
        os._exit(EXIT_RANK)

    def _watch(self) -> None:
        """End the worker when one of its ranks has ended."""
        poll = select.poll()
        ranks = {os.pidfd_open(pid): pid for pid in self._pids}
        for fd in ranks:
            poll.register(fd, select.POLLIN)
        while ranks:
            [(fd, _), *_] = poll.poll()
            poll.unregister(fd)
            os.close(fd)
            pid = ranks.pop(fd)
            _, status = os.waitpid(pid, 0)  # by pid: the handler may have children of its own
            if not self._closing:
                code = os.waitstatus_to_exitcode(status)
                log.error("a rank has ended, and the worker with it", rank_pid=pid, code=code)
                os._exit(code if code > 0 else EXIT_RANK)


def begin(model: Model, meeting: Path, follow: Callable[[int, socket.socket], None]) -> None:
    """Fork the other ranks of a model, while this process has one thread and no device. Each runs ``follow``."""
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
                ignore_signals((*STOPS, *OTHERS))
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
    """Return the group that this process leads, if any."""
    return _group


def join(meeting: Path, rank: int, size: int, device: str) -> None:
    """Join the process group. Blocks until all ranks are there, at most ``JOIN`` seconds."""
    import torch
    import torch.distributed as dist

    on_gpu = device.startswith("cuda")
    # A batch may also have tensors on the host, which NCCL does not send.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=JOIN),
        device_id=torch.device(device) if on_gpu else None,  # connects at once, so failures show here
    )


def device_of(model: Model, rank: int) -> str:
    """Return the device of a rank: the GPU of that number among those that the worker sees."""
    found = resolve(model.device)
    return f"cuda:{rank}" if found.startswith("cuda") else found


def follow(model: Model, rank: int, meeting: Path, leader: socket.socket, make: Callable[[], Handler]) -> None:
    """Run a rank other than 0; never returns. ``make`` returns the handler, not yet loaded."""
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
            # Not EXIT_HARDWARE: the supervisor would blame rank 0's GPU; the driver names the broken one.
            if (fault := device.fault(exc)) in (Fault.STICKY, Fault.HARDWARE):
                os._exit(EXIT_STICKY if fault is Fault.STICKY else EXIT_RANK)
            leader.sendall(BAD)
    if os.getpid() == pid:  # else this is a fork by the handler that has returned
        handler.close()
    os._exit(0)


def receive(leader: socket.socket) -> bytes:
    """Return the next batch's head; empty where no more comes."""
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
