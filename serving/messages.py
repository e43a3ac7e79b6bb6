"""What our processes say to each other beside requests: the heads of CONTROL frames, one tagged struct a message."""

from __future__ import annotations

import msgspec

from serving.model import Model
from serving.wire import Kind, encode


class Address(msgspec.Struct, frozen=True, array_like=True):
    """Where a replica listens. ``row`` is its scoreboard row, ``epoch`` tells it from earlier owners of that row."""

    row: int
    epoch: int
    path: str


class FrontendHello(msgspec.Struct, frozen=True, tag="frontend-hello"):
    """HTTP worker → supervisor, first on its control connection."""

    pid: int


class FrontendWelcome(msgspec.Struct, frozen=True, tag="frontend-welcome"):
    """Supervisor → HTTP worker: the scoreboard slot that is yours to write."""

    slot: int


class Locate(msgspec.Struct, frozen=True, tag="locate"):
    """HTTP worker → supervisor: where is this model? Answered by Placement, now and at each change from now on."""

    model: str


class Placement(msgspec.Struct, frozen=True, tag="placement"):
    """Supervisor → HTTP worker: the replicas of ``model`` that take requests at this moment.

    ``loading`` is true until it was ready once; ``failed`` says why it never will be. ``timeout`` is in seconds,
    ``queue_size`` in requests per replica.
    """

    model: str
    replicas: list[Address]
    timeout: float
    queue_size: int
    loading: bool = False
    failed: str | None = None


class Overdue(msgspec.Struct, frozen=True, tag="overdue"):
    """HTTP worker → supervisor: a request sent to this replica reached its deadline unanswered."""

    row: int
    epoch: int


class ForkReady(msgspec.Struct, frozen=True, tag="fork-ready"):
    """Fork server → supervisor: torch is imported."""


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Supervisor → fork server: start a model worker."""

    row: int
    epoch: int
    model: Model


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """Fork server → supervisor: the answer to Fork."""

    row: int
    epoch: int
    pid: int


class WorkerHello(msgspec.Struct, frozen=True, tag="worker-hello"):
    """Model worker → supervisor, first on its control connection."""

    row: int
    epoch: int


class WorkerPhase(msgspec.Struct, frozen=True, tag="worker-phase"):
    """Model worker → supervisor: it is now ``loading``, ``warming``, ``ready`` or ``failed``.

    ``error`` is one line; ``permanent`` says that trying again cannot help. ``queue_size`` comes with ``ready``.
    """

    row: int
    epoch: int
    phase: str
    error: str | None = None
    permanent: bool = False
    queue_size: int = 0


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """Supervisor → model worker: finish what is queued, close the handler, exit. Passed on to HTTP workers."""


Message = (
    FrontendHello
    | FrontendWelcome
    | Locate
    | Placement
    | Overdue
    | ForkReady
    | Fork
    | Forked
    | WorkerHello
    | WorkerPhase
    | Retire
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def pack(message: Message) -> bytes:
    """A whole CONTROL frame."""
    return b"".join(encode(Kind.CONTROL, 0, _encoder.encode(message)))


def unpack(head: bytes) -> Message:
    """The message in a CONTROL frame's head. Raises msgspec.DecodeError."""
    message: Message = _decoder.decode(head)
    return message
