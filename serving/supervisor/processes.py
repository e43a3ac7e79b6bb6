"""Processes: starts, ends and reaps processes. The only module that does."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from serving.system import interpreter

LIBRARIES = ("LD_LIBRARY_PATH",)


class Exit(NamedTuple):
    """The end of a process: its exit code, or minus the signal that ended it."""

    pid: int
    code: int

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return f"signal {signal.Signals(-self.code).name}"
        except ValueError:
            return f"signal {-self.code}"


def spawn_module(module: str, arguments: Sequence[str], inherit: Sequence[int]) -> int:
    """Run ``python -m module arguments`` in its own process group, with only these descriptors; returns the pid.

    The working folder is not on its path: a file there could shadow a module of the same name.
    """
    return spawn(interpreter.command(module, *arguments), inherit, os.environ)


def spawn(command: Sequence[str], inherit: Sequence[int], environment: Mapping[str, str]) -> int:
    """Start a process in its own group, so that a terminal's Ctrl-C reaches the supervisor alone. Raises OSError."""
    for fd in inherit:
        os.set_inheritable(fd, True)
    try:
        return os.posix_spawn(command[0], list(command), environment, setpgroup=0, setsigmask=())
    finally:
        for fd in inherit:
            os.set_inheritable(fd, False)


def spawn_bare(command: Sequence[str], inherit: Sequence[int]) -> int:
    """Start a process as ``spawn`` does, with only the variables of the environment that locate the interpreter's
    libraries.
    """
    return spawn(command, inherit, {name: os.environ[name] for name in LIBRARIES if name in os.environ})


def channel_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process; does nothing if it is gone already."""
    assert pid > 1, "0 and 1 would be ourselves, or everybody"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def abort(pid: int) -> None:
    """Make the process write its stacks and die, also when it is stopped."""
    send_signal(pid, signal.SIGABRT)
    send_signal(pid, signal.SIGCONT)


def kill_group(pid: int) -> None:
    """Kill the process and whatever it has started in its group."""
    assert pid > 1, "0 and 1 would be ourselves, or everybody"
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    send_signal(pid, signal.SIGKILL)


def reap(owns_group: Callable[[int], bool]) -> Iterator[Exit]:
    """Yield every child that has ended, adopted orphans included.

    If ``owns_group(pid)``, the rest of its process group is killed first, before its pid can be reused.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        if owns_group(ended.si_pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(ended.si_pid, signal.SIGKILL)
        _, status = os.waitpid(ended.si_pid, 0)
        yield Exit(ended.si_pid, os.waitstatus_to_exitcode(status))


def is_child(pid: int) -> bool:
    """Return whether ``pid`` is a child of this process that has not been reaped."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def raise_file_limit(wanted: int) -> None:
    """Let this process and its children open more files: every HTTP worker holds a socket to every replica."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, wanted)), hard))
