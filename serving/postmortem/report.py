"""Report: what is known about the end of one worker process, as the log's event and as a JSON file."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

EVENT = "a worker died"  # message of the log's line
JSON, BODIES = ".json", ".bodies"  # the names of a report's files behind its id
SHOWN = 32  # most requests in a report


class Reason(enum.StrEnum):
    """Why a worker ended. ``KILLED`` is by another process; its memory may have been short all the same, where the
    container hides the kernel's count.
    """

    HANG = "hang"
    CRASH = "crash"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED_LOAD = "failed_load"
    LOST_DEVICE = "lost_device"


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that the worker has worked on. ``age`` is in seconds before the worker's end, ``size`` in bytes of the
    body; both are None where only the ``id`` on the scoreboard is known.
    """

    id: int
    request_id: str = ""
    content_type: str = ""
    size: int | None = None
    age: float | None = None


class Batch(msgspec.Struct, frozen=True):
    """The batch that last entered the model: its number of samples, and the shape of the first where it has one."""

    size: int
    shape: list[int] | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of one worker.

    ``report`` is its id and ``at`` its time, ISO 8601. ``row`` and ``epoch`` name the worker on the scoreboard,
    ``worker`` is its pid. ``phase`` is what it did: ``loading``, ``warming``, ``ready`` or so. ``cause`` is the end in
    words, ``error`` what a load raised. ``where`` is the innermost line of the handler's code: of the ``stacks``, or as
    it was seen last, ``seen`` seconds before the end.

    ``running`` are the requests that it worked on, ``last`` those before. ``memory``, ``peak`` and ``device_memory``
    are bytes, as the worker measured them last; ``curve`` has its resident bytes, by seconds before the end.
    ``oom_killed``: the kernel's count of processes killed for memory rose; ``oom_kills`` is that count. ``xids`` are
    errors of its GPU with their seconds before the end. ``bodies`` is the file with those of ``running``.
    """

    report: str
    at: str
    reason: Reason
    cause: str
    worker: int
    row: int
    epoch: int
    model: str = ""
    path: str = ""
    device: str = ""
    phase: str = ""
    signal: str | None = None
    exit_code: int | None = None
    error: str | None = None
    where: str = ""
    seen: float | None = None
    stacks: str = ""
    running: list[Seen] = []
    last: list[Seen] = []
    batch: Batch | None = None
    memory: int = 0
    peak: int = 0
    device_memory: int = 0
    curve: list[tuple[float, int]] = []
    oom_killed: bool = False
    oom_kills: int = 0
    xids: list[tuple[float, int]] = []
    versions: dict[str, str] = {}
    bodies: str = ""

    def fields(self) -> dict[str, Any]:
        """Return what is known, for a line of the log."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def encode(self) -> bytes:
        """Return the JSON text of its file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read(data: bytes | str) -> Report:
    """Return the report in a file, or in an event of the log. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Report)
