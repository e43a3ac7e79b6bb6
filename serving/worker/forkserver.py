"""Fork server: torch is imported once, then each model worker is a fork that is ready in milliseconds.

It has one thread, never touches CUDA and runs no operation of torch that would start a thread pool, since neither CUDA
nor a pool lives through a fork. Each worker is forked twice, so that it becomes a child of the supervisor, the only
process that reaps.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from serving import codecs
from serving.adapters.conventions import OURS, WEIGHTS
from serving.ipc.messages import Fork, Forked, ForkReady, Message, pack, unpack
from serving.ipc.runtime import BEGIN, Runtime, set_parent_death_signal
from serving.ipc.scoreboard import Scoreboard
from serving.ipc.wire import Frame, FrameReader
from serving.request import Request
from serving.system import log
from serving.system.gpus import VISIBLE
from serving.system.signals import OTHERS, STOPS, ignore_signals

BLAS = "OPENBLAS_NUM_THREADS"
SPINS = "3000"  # turns; about 0.04 ms on an Intel Xeon
ADOPTION = 5.0  # seconds within which a fork must have been handed to the supervisor


class ForkServer:
    """The loop that forks workers on request.

    They become children of ``supervisor``, a pid; requests come by ``channel``.
    """

    def __init__(self, channel: socket.socket, runtime: Runtime, board: Scoreboard, supervisor: int) -> None:
        self._channel = channel
        self._runtime = runtime
        self._board = board
        self._supervisor = supervisor
        self._config = runtime.read_config()
        self._reader = FrameReader()

    def run(self) -> None:
        """Fork on request until the supervisor closes its end."""
        if self._config.many:
            # With many models nobody waits for the first answer yet, and each later load gains. For a single model this
            # would cost 17 MiB to save 19 ms when it is replaced.
            self._prepare()
        gc.freeze()
        self._send(ForkReady())
        while (frames := self._receive()) is not None:
            for frame in frames:
                request = unpack(frame.body)
                if isinstance(request, Fork):
                    self._fork(request)

    def _prepare(self) -> None:
        try:
            prepare(self._runtime.path)
        except Exception as exc:  # warming up only saves time; such a torch may still serve
            log.warning("the fork server could not warm up", error=f"{type(exc).__name__}: {exc}")

    def _receive(self) -> list[Frame] | None:
        n = self._channel.recv_into(self._reader.get_buffer())
        return self._reader.buffer_updated(n) if n else None

    def _send(self, message: Message) -> None:
        self._channel.sendall(pack(message))

    def _fork(self, request: Fork) -> None:
        try:
            pid = self._fork_twice(request)
        except OSError:
            pid = 0
        self._send(Forked(request.row, request.epoch, pid))

    def _fork_twice(self, request: Fork) -> int:
        """Return the worker's pid, or 0 where the second fork failed. Raises OSError where the first fork failed."""
        read_end, write_end = os.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(read_end)
            os.close(write_end)
            raise
        if child == 0:
            try:
                worker = os.fork()
            except OSError:
                os._exit(1)
            if worker == 0:
                os.close(read_end)
                os.close(write_end)
                self._become_worker(request)
            os.write(write_end, worker.to_bytes(4, "little"))
            os._exit(0)
        os.close(write_end)
        pid = int.from_bytes(os.read(read_end, 4), "little")
        os.close(read_end)
        os.waitpid(child, 0)
        return pid

    def _become_worker(self, request: Fork) -> None:
        try:
            self._channel.close()
            self._be_adopted()
            os.setpgid(0, 0)  # so that the processes of user code are ended with it
            ignore_signals((*STOPS, *OTHERS))
            gc.enable()

            from serving.worker.process import main

            if request.visible is not None:
                os.environ[VISIBLE] = request.visible  # before anything here touches CUDA, which reads it once
            main(request, self._config, self._runtime, self._board.row(request.row))
        except BaseException as exc:
            log.error("a worker could not begin", exc=exc, row=request.row)
        finally:
            os._exit(72)

    def _be_adopted(self) -> None:
        give_up = time.monotonic() + ADOPTION
        while os.getppid() != self._supervisor:
            if time.monotonic() > give_up:
                os._exit(73)
            time.sleep(0.0005)
        set_parent_death_signal(signal.SIGKILL)


def prepare(folder: Path) -> None:
    """Import what models may need and serve a small model, so that all later workers inherit what first use sets up.

    The small model's file is written to ``folder`` for that time. Measured for a small TorchScript model: saves 18 of
    30 ms until the first answer, and 4 of 13 MB of private memory.
    """
    import numpy.random  # noqa: F401  its import is not part of numpy's, and costs 6 MB in each worker
    import torch

    for one in (*OURS, WEIGHTS):
        module, _, name = one.handler.partition(":")
        cls = getattr(importlib.import_module(module), name)

    handler = cls()  # of weights alone
    request = Request(b"[[[0.5, 1.5, 2.5, 3.5]]]", "application/json")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would start a pool
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)
        layers = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
        torch.jit.save(torch.jit.script(layers), str(folder / "model.pt"))  # tracing would import for half a second
        handler.load(folder, "cpu")
        for _ in range(3):  # TorchScript profiles the second call and optimises the third one
            outputs = handler.split(handler.predict(handler.collate([handler.decode(request)])), 1)
            codecs.encode(handler.encode(outputs[0], request), "", "application/json")
    (folder / "model.pt").unlink()
    torch.set_num_threads(threads)


def set_wait_policy(environment: MutableMapping[str, str]) -> None:
    """Set how long threads of torch spin while they wait for each other, unless the environment says so already.

    They spin for a moment, since sleeping and waking takes as long as a small operation, and no longer, since the HTTP
    workers need the cores too. Measured on two cores with a small model: spinning as long as the library likes costs 40
    % of the requests/s; not spinning at all costs 30 %, and makes a request alone up to half as fast.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


@contextlib.contextmanager
def one_thread(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Import numpy without its library's thread pool, which would be a second thread before the fork.

    Afterwards the variable is as before, for what models import or start later.
    """
    before = environment.get(BLAS)
    environment[BLAS] = "1"
    try:
        yield
    finally:
        del environment[BLAS]
        if before is not None:
            environment[BLAS] = before


def read_nothing() -> None:
    """Replace standard input by /dev/null, as for a service.

    Code that reads it gets EOF instead of waiting for a terminal.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null != 0:
        os.close(null)
    binary = open(0, "rb", closefd=False)  # noqa: SIM115
    binary.raw.name = "<stdin>"  # type: ignore[attr-defined]
    text = io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape")
    text.mode = "r"  # type: ignore[misc]
    sys.stdin = sys.__stdin__ = text  # type: ignore[misc]


def main() -> None:
    """Run ``python -m serving.worker.forkserver CHANNEL_FD SUPERVISOR_PID``; the rest arrives later, by the channel."""
    channel_fd, supervisor = map(int, sys.argv[1:3])
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != supervisor:
        sys.exit(1)  # it died before the death signal was set
    for number in (*STOPS, *OTHERS):  # workers make their own choice after the fork
        signal.signal(number, signal.SIG_IGN)
    read_nothing()
    set_wait_policy(os.environ)
    # Nearly all objects made here stay: 7,000 of 268,000 do not, and a search for them takes a quarter of the start.
    gc.disable()
    with one_thread(os.environ):
        import torch  # noqa: F401  the import is what this process is for

    for name in ("serving.worker.process", "uvloop"):  # the latter takes 2 MB of a worker that imports it by itself
        importlib.import_module(name)
    channel = socket.socket(fileno=channel_fd)
    begin = receive_begin(channel)
    if begin is None:
        sys.exit(1)
    runtime, board = begin
    config = runtime.read_config()
    log.setup("fork server", config.log_level, config.log_format)
    ForkServer(channel, runtime, board, supervisor).run()


def receive_begin(channel: socket.socket) -> tuple[Runtime, Scoreboard] | None:
    """Receive the supervisor's first message: the runtime folder and the scoreboard. Returns None where it has died."""
    data, fds, _, _ = socket.recv_fds(channel, BEGIN, 1)
    while data and len(data) < BEGIN:
        more = channel.recv(BEGIN - len(data))
        if not more:
            return None
        data += more
    for fd in fds:
        os.set_inheritable(fd, False)  # else programs that user code starts would inherit it
    return (Runtime(Path(os.fsdecode(data.rstrip(b"\0")))), Scoreboard(fds[0])) if data else None


if __name__ == "__main__":
    main()
