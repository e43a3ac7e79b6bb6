"""Spare: a worker without a model. It opens its device, reports that and waits on its control connection."""

from __future__ import annotations

import os
import socket

from serving.ipc.messages import Assign, Fork, WorkerHello, WorkerPhase, pack, unpack
from serving.ipc.scoreboard import Row
from serving.ipc.wire import Frame, FrameReader
from serving.model.model import Model
from serving.system import log
from serving.system.memory import memory_of
from serving.worker.device import find_device

EXIT_UNOPENED = 76  # exit code of a spare that could not open its device


def wait(control: socket.socket, request: Fork, row: Row) -> Model:
    """Return the model that the supervisor assigns.

    Ends the process where it is to retire, or the supervisor has died.
    """
    control.sendall(pack(WorkerHello(request.row, request.epoch)))
    try:
        device = find_device(request.device)
        device.open(1)
        device.prime()
        host = memory_of("self")
        row.stamp_memory(host.private, host.peak, device.held())
    except BaseException as exc:
        log.error("a spare could not open its device", exc=exc, device=request.device)
        os._exit(EXIT_UNOPENED)
    control.sendall(pack(WorkerPhase(request.row, request.epoch, "spare", device=device.name)))
    reader = FrameReader()
    while (frames := receive(control, reader)) is not None:
        messages = [unpack(frame.body) for frame in frames]
        # Only a Retire can follow an Assign, and then there is nothing to begin.
        if len(messages) == 1 and isinstance(messages[0], Assign):
            return messages[0].model
        if messages:
            os._exit(0)
    os._exit(71)  # no supervisor, no worker


def receive(control: socket.socket, reader: FrameReader) -> list[Frame] | None:
    n = control.recv_into(reader.get_buffer())
    return reader.buffer_updated(n) if n else None
