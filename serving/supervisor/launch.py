"""Launch: starts the fork server's process, which imports torch while the supervisor starts. Imports little itself."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from serving.supervisor.processes import channel_pair, spawn_module


class Launched(NamedTuple):
    """A fork server that does not know its supervisor's runtime folder yet, and our end of its channel."""

    pid: int
    channel: socket.socket


def launch() -> Launched:
    """Start a fork server, which ends with this process. Raises OSError."""
    ours, theirs = channel_pair()
    with theirs:
        pid = spawn_module("serving.worker.forkserver", [str(theirs.fileno()), str(os.getpid())], [theirs.fileno()])
    return Launched(pid, ours)
