"""Items: requests on their way through a worker, and what its engine is to do with them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import msgspec

from serving.handler import Handler
from serving.ipc.flow import Flow
from serving.request import Request, Response
from serving.session import Session

Chore = Callable[[Handler, Session], Response]


class Live(Protocol):
    """An answer in pieces or a conversation, as the I/O thread sees it."""

    flow: Flow

    def changed(self) -> None:
        """More may be sent, or nobody listens any more. From any thread."""
        ...


class Item(msgspec.Struct, eq=False):
    """One request on its way through the worker. ``arrival`` is an instant of the batcher's clock, as is ``due``, when
    its answer is wanted. A ``sure`` one is begun whatever is known of the model: it came when there was nothing to do.

    ``claim`` is the memory that its ``sample`` takes. ``opens``: its ``session`` begins with it, and ``opened``: the
    handler has heard so. A ``chore`` is answered by the engine without the model; an ``own`` one is the worker's, no
    client's. ``live`` is its answer while that comes in pieces, or the conversation that it began.
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
    chore: Chore | None = None
    own: bool = False
    live: Live | None = None
    begun: bool = False
    priority: int = 0
    sure: bool = False


class Taken(msgspec.Struct):
    """What the engine does next: run ``batch`` if there is one, which is of ``bucket``; ``expired`` get no more than an
    error, ``hopeless`` have less time left than a batch takes, and nobody waits for ``cancelled``."""

    bucket: Hashable = None
    batch: list[Item] = []
    expired: list[Item] = []
    hopeless: list[Item] = []
    cancelled: list[Item] = []


class Alone(NamedTuple):
    """The bucket of a request that shares no batch."""

    id: int
