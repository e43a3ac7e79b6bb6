"""Items: requests inside a worker, and what its engine does next with them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import msgspec

from serving.handler import Handler
from serving.ipc.flow import Flow
from serving.request import Request, Response
from serving.session import Session

SessionCommand = Callable[[Handler, Session], Response]


class Live(Protocol):
    """A stream or a conversation, as the I/O thread sees it."""

    flow: Flow

    def changed(self) -> None:
        """Report that more may be sent or that the client has left. From any thread."""
        ...


class Item(msgspec.Struct, eq=False):
    """One request on its way through the worker.

    ``arrival`` and ``due``, when its answer is wanted, are instants of the batcher's clock. A ``sure`` request is begun
    whatever the forecast says: it arrived at an idle model. ``claim`` is the memory that its ``sample`` takes.

    ``opens``: the request begins its ``session``; ``opened``: the handler knows. A ``command`` is carried out by the
    engine without the model; an ``own`` item is the worker's, without a client. ``live`` is its stream, or the
    conversation that it began.
    """

    id: int
    request: Request
    reply_to: Any = None
    alone: bool = False
    arrival: float = 0.0
    due: float = 0.0
    sample: Any = None
    claim: Any = None
    cancelled: bool = False
    session: Session | None = None
    opens: bool = False
    opened: bool = False
    command: SessionCommand | None = None
    own: bool = False
    live: Live | None = None
    begun: bool = False
    priority: int = 0
    sure: bool = False


class Taken(msgspec.Struct):
    """The engine's next work: run ``batch``, if any, of ``bucket``.

    The ``expired`` get an error, the ``hopeless`` have less time left than a batch takes, and the ``cancelled`` get
    nothing.
    """

    bucket: Hashable = None
    batch: list[Item] = []
    expired: list[Item] = []
    hopeless: list[Item] = []
    cancelled: list[Item] = []


class Alone(NamedTuple):
    """The bucket of a request that shares no batch."""

    id: int
