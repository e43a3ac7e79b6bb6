"""Parts: what the engine hands over for a request: a whole response, or the parts of a stream or a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from serving.conversation import Close, Message
from serving.errors import ServingError
from serving.request import Body, Response
from serving.worker.batching.items import Item


@dataclass(frozen=True, slots=True)
class Begin:
    """The head of a stream and its first chunk, in ``response``."""

    response: Response


@dataclass(frozen=True, slots=True)
class More:
    """The next chunk."""

    body: Body


@dataclass(frozen=True, slots=True)
class End:
    """The end of a stream."""


@dataclass(frozen=True, slots=True)
class Used:
    """A count of bytes from the client that were taken in, so that it may send as many more."""

    count: int


Part = Begin | More | End | Message | Used | Close | ServingError

Reply = tuple[Item, Response | Part]
"""What is to be sent for a request: exactly one whole response, or parts of which the last one ends it."""
